#!/usr/bin/env bash
# Train and measure on a GPU that is at hand for ten minutes at a time, on a machine that may lack a network:
# `tools/gpu_jobs.sh JOB`, `tools/gpu_jobs.sh list`.
#
# Every job goes on where the last call was stopped, and stops itself after $LIMIT seconds (exit code 3: call again).
# What it made so far lies in $CARRY, a directory below the repository that git ignores, and as parts of at most 15 MB
# in $OUT. From one call to the next:
#
#   here         tools/gpu_jobs.sh prepare                 # once: the Python packages that the machine may lack
#   on the GPU   tools/gpu_jobs.sh quick                   # on a copy of the repository, $CARRY with it
#   here         tools/gpu_jobs.sh unpack DIRECTORY        # $OUT as it came back, into $CARRY
#   here         RBG_CACHE_DIR=$CARRY/cache python tools/zoo.py add quick
#
# Settings: CARRY (.gpu), OUT ($CARRY/out), LIMIT (520), DEVICE (auto), PYTHON (python3), TINY=1 for a smoke test of
# minutes on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."

CARRY=${CARRY:-.gpu}
OUT=${OUT:-$CARRY/out}
LIMIT=${LIMIT:-520}
DEVICE=${DEVICE:-auto}
PYTHON=${PYTHON:-python3}
TINY=${TINY:-}
AGAIN=3
started=$SECONDS
PACKAGES="click rich pydantic pooch platformdirs importlib-metadata safetensors pillow"
STATE="cache figures timings attack"

# Defense-GAN trained as the reference trains it, for a quarter of its steps; `standard` has a generator for a CPU.
GAN=defense-gan:width=64,init=prior,gan_steps=50000
CLASSIFIER=f
SAMPLES=1000
IMAGES=10000
L=25,50,100,200,400,800,1600
R=1,2,5,10,20
THREAT=black-box:model=e,rounds=6
if [ -n "$TINY" ]; then
    GAN=defense-gan:width=4,init=prior,gan_steps=5,rec_images=200,rec_iterations=2,rec_restarts=1,classifier_epochs=1
    CLASSIFIER=small-cnn SAMPLES=20 IMAGES=100 L=2,4 R=1,2 THREAT=black-box:model=small-cnn,rounds=1
fi

list() {
    cat <<'TEXT'
quick            weights of the preset quick
standard         weights of the preset standard on MNIST
standard-fashion weights of the preset standard on Fashion-MNIST; its files must lie in $CARRY/data/fashion-mnist
figures          Defense-GAN's Tables 1, 8 and 10: orig and rec, substitute E, L and R one at a time
timings          seconds of projecting 10,000 images by each engine, its accuracy on these and on 1,000 attacked ones
attack           BPDA and the latent-space attack on Defense-GAN at the published distance, 500 images
all              the above one after the other, as far as the time goes; standard-fashion where its files are there
here: prepare (packages for the machine), unpack DIRECTORY (what came back), pack (make $OUT anew), list
TEXT
}

remaining() { echo $((LIMIT - (SECONDS - started))); }

# Run a command for as long as is left; it is interrupted as by Ctrl-C, so that it keeps what is finished.
resumable() {
    local left code=0
    left=$(remaining)
    [ "$left" -gt 5 ] || return $AGAIN
    timeout --signal=INT --kill-after=15 "$left" "$@" || code=$?
    case $code in
        124 | 130 | 137) return $AGAIN ;;
        *) return $code ;;
    esac
}

rbg() { resumable "$PYTHON" -c 'from robustbench_gan.cli import main; main()' "$@"; }
zoo() { resumable "$PYTHON" tools/zoo.py "$@"; }

quick() {
    if [ -n "$TINY" ]; then zoo train "$(tiny_matrix)" --device "$DEVICE"; else zoo train quick --device "$DEVICE"; fi
}

tiny_matrix() {
    mkdir -p "$CARRY"
    cat >"$CARRY/tiny.toml" <<TEXT
name = "tiny"
classifiers = ["small-cnn"]
defenses = ["none", "$GAN,iterations=2,restarts=1"]
attacks = ["fgsm"]
threats = ["black-box:model=small-cnn,rounds=1", "white-box"]
samples = 20
TEXT
    realpath "$CARRY/tiny.toml"
}

standard() {
    if [ -n "$TINY" ]; then quick; else zoo train standard --dataset mnist --device "$DEVICE"; fi
}

standard-fashion() { zoo train standard --dataset fashion-mnist --device "$DEVICE"; }

figures() {
    local common=(--classifier "$CLASSIFIER" --reference "$GAN,classifier=orig" --threat "$THREAT" --samples "$SAMPLES" --device "$DEVICE")
    local at=$CARRY/figures classifier options=()
    for classifier in a b:dropout=keep c d f; do options+=(--classifier "$classifier"); done
    [ -z "$TINY" ] || options=(--classifier small-cnn)
    rbg sweep "$GAN,classifier=orig" "$GAN,classifier=rec" --over "iterations=$L" "${common[@]}" --out "$at/table8"
    rbg sweep "$GAN,classifier=orig,iterations=100" "$GAN,classifier=rec,iterations=100" \
        --over "restarts=$R" "${common[@]}" --out "$at/table10"
    rbg evaluate --dataset mnist "${options[@]}" --defense none --defense "$GAN,classifier=orig" \
        --defense "$GAN,classifier=rec" --attack fgsm --threat "$THREAT" --eps 0.3 --samples "$SAMPLES" \
        --judge-seeds 1 --max-cell-minutes 60 --device "$DEVICE" --out "$at/table1"
}

# One line of JSON an engine in timings/projection.jsonl; those that stand there are not timed again.
timings() {
    local engine options=iterations=200,restarts=10
    [ -z "$TINY" ] || options=iterations=3,restarts=2
    mkdir -p "$CARRY/timings"
    for engine in precision=float32 precision=bf16 prune=true precision=bf16,prune=true; do
        grep -qs "\"$engine\", \"images\": $IMAGES," "$CARRY/timings/projection.jsonl" && continue
        resumable "$PYTHON" - "$GAN,$options,$engine" "$engine" "$IMAGES" "$DEVICE" \
            "$CARRY/timings/projection.jsonl" <<'PYTHON'
import json, platform, sys, time
import torch
from torch.nn import functional as F
from robustbench_gan.engine.matrix import Matrix, lay_out
from robustbench_gan.nouns.outcome import correct
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.contracts.threat import Defended, answer
from robustbench_gan.training.workshop import Workshop, pick_device

spec, engine, images, device, path = sys.argv[1:]
workshop = Workshop(device=pick_device(device))
matrix = Matrix(classifiers=["small-cnn"], defenses=[spec], samples=1)
cell = lay_out(matrix, workshop)[0].cell
defense = workshop.defense(cell.dataset, cell.classifier, cell.defense)
x, y = workshop.images(cell.dataset, 0, int(images))
seeds = sample_seeds(0, "timings", torch.arange(len(x), device=x.device))


def clock():
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


with torch.no_grad():
    answer(Defended(defense), x[:250], seeds[:250])  # kernels are chosen and compiled outside the clock
    before = clock()
    out = answer(Defended(defense), x, seeds)
    seconds = clock() - before
few = x[:1000].clone().requires_grad_()
loss = F.cross_entropy(defense.core(few), y[:1000], reduction="sum")
attacked = (few + 0.1 * torch.autograd.grad(loss, few)[0].sign()).clamp(0, 1).detach()
with torch.no_grad():
    harmed = answer(Defended(defense), attacked, seeds[:1000])
row = {
    "engine": engine, "images": len(x), "seconds": round(seconds, 2), "seconds_per_image": seconds / len(x),
    "clean_accuracy": float(correct(out, y).double().mean()),
    "accuracy_on_fgsm_0.1": float(correct(harmed, y[:1000]).double().mean()),
    "spec": cell.defense, "torch": torch.__version__,
    "device": torch.cuda.get_device_name() if x.is_cuda else platform.machine(),
    "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if x.is_cuda else None,
}
with open(path, "a") as file:
    file.write(json.dumps(row) + "\n")
print(json.dumps(row))
PYTHON
    done
}

# A table of what is finished is kept as attack.md; every hundred images are a record of their own.
attack() {
    local images=500 options=iterations=200,restarts=10
    [ -z "$TINY" ] || images=100 options=iterations=2,restarts=1
    mkdir -p "$CARRY/attack"
    resumable "$PYTHON" tools/defense_gan_attack.py "$CARRY/attack" "$GAN,$options" --samples "$images" \
        --device "$DEVICE" | tee "$CARRY/attack/attack.md"
}

all() {
    quick
    timings
    attack
    figures
    standard
    if [ -d "$CARRY/data/fashion-mnist" ]; then standard-fashion; fi
}

# A machine without a network: packages that it lacks are unpacked from the wheels, and the checkout is made known.
make_importable() {
    if "$PYTHON" - <<'PYTHON' 2>/dev/null; then return; fi
import safetensors, torch
from robustbench_gan import cli
from robustbench_gan.engine import run
from robustbench_gan.nouns import registry
from robustbench_gan.training import workshop
registry.load("defenses", "none"), registry.load("models", "small-cnn")
PYTHON
    local site
    site=$(mktemp -d)
    "$PYTHON" - "$site" "$CARRY/wheels" <<'PYTHON'
import importlib.util, pathlib, sys, tomllib, zipfile

site, wheels = map(pathlib.Path, sys.argv[1:])
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as content:
        tops = {name.partition("/")[0].removesuffix(".py") for name in content.namelist()}
        modules = [t for t in tops if t.isidentifier()]
        if not modules or not all(importlib.util.find_spec(module) for module in modules):
            content.extractall(site)
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
info = site / f"robustbench_gan-{project['version']}.dist-info"
info.mkdir()
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
lines = []
for group, points in project["entry-points"].items():
    lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
(info / "entry_points.txt").write_text("\n".join(lines) + "\n")
PYTHON
    export PYTHONPATH="$PWD:$PWD/plugins:$site${PYTHONPATH:+:$PYTHONPATH}"
    "$PYTHON" -c 'from robustbench_gan import cli, run, workshop'
}

prepare() {
    mkdir -p "$CARRY/wheels"
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download -q --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 -d "$CARRY/wheels" $PACKAGES
    rm -f "$CARRY"/wheels/numpy-* "$CARRY"/wheels/torch-*
    du -sh "$CARRY/wheels"
}

# Parts of 15 MB, 60 MB or not much more in all: large caches of images are left out where it must be.
pack() {
    local present=() name
    mkdir -p "$OUT"
    rm -f "$OUT"/state.tgz.*
    for name in $STATE; do [ ! -e "$CARRY/$name" ] || present+=("$name"); done
    [ ${#present[@]} -gt 0 ] || return 0
    tar -cz -C "$CARRY" "${present[@]}" | split -b 15000000 -d -a 2 - "$OUT/state.tgz."
    if [ "$(du -cb "$OUT"/state.tgz.* | tail -1 | cut -f1)" -gt 60000000 ]; then
        rm -f "$OUT"/state.tgz.*
        tar -cz -C "$CARRY" --exclude='reconstructions-*' "${present[@]}" |
            split -b 15000000 -d -a 2 - "$OUT/state.tgz."
    fi
}

unpack() {
    mkdir -p "$CARRY"
    cat "$1"/state.tgz.* | tar -xz -C "$CARRY"
}

job=${1:-list}
case $job in
    list) list ;;
    prepare | pack) "$job" ;;
    unpack) unpack "${2:?which directory?}" ;;
    quick | standard | standard-fashion | figures | timings | attack | all)
        mkdir -p "$CARRY"
        CARRY=$(realpath "$CARRY")
        export RBG_CACHE_DIR=$CARRY/cache RBG_ZOO=off PYTHONUNBUFFERED=1
        [ ! -d "$CARRY/data" ] || export RBG_DATA_DIR=$CARRY/data
        make_importable
        set +e  # and not `|| code=$?`, which would let a job go on after a command that failed
        (set -e; "$job")
        code=$?
        set -e
        pack
        case $code in
            0) echo "$job: finished" ;;
            "$AGAIN") echo "$job: not finished; call it again" ;;
            *) echo "$job: failed with exit code $code" ;;
        esac
        exit $code
        ;;
    *)
        echo "unknown job '$job'; there are:" >&2
        list >&2
        exit 2
        ;;
esac
