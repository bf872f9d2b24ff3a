#!/usr/bin/env bash
# The tests as on processors without AVX-512 and bfloat16: the libraries are asked to use less of this one.
#
#     tools/other_processors.sh quick      # what depends on rounding (the mark `rounding`), on two such kinds: CI runs it
#     tools/other_processors.sh nightly    # the whole suite on two such kinds, each with one and with two threads
#
# What follows is given to pytest. PYTHON names the interpreter. Emulation changes instructions and so rounding; it
# does not change how many cores there are, or what the libraries were built with.
set -uo pipefail

python=${PYTHON:-python}
part=${1:-}
shift || true
case $part in
    quick) threads="1" select=(-m "rounding and not figures and not speed and not nightly") ;;
    nightly) threads="1 2" select=() ;;
    *) echo "tools/other_processors.sh: expected quick or nightly, not '$part'" >&2 && exit 2 ;;
esac

failed=0
run() { # name, threads, variables
    printf '\n== as on a processor with %s, %s threads\n' "$1" "$2"
    env "${@:3}" OMP_NUM_THREADS="$2" MKL_NUM_THREADS="$2" \
        "$python" -m pytest -q -p no:cacheprovider "${select[@]}" "${extra[@]}" || failed=1
}
extra=("$@")
for count in $threads; do
    run "AVX2 alone" "$count" ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
    run "SSE4.1 alone" "$count" ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=AVX2
done
exit $failed
