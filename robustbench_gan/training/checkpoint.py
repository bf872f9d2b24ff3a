"""The state of an unfinished training on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustbench_gan.base import machine
from robustbench_gan.base.digests import CORE, code_digest
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_atomically
from robustbench_gan.training.building import Building, Finished, Pace, current, directory
from robustbench_gan.training.store import Recipe, Store, packed, read_artifact, read_header, recipe_key

NEVER = sys.maxsize  # for a training that goes by the clock alone
ROUNDING = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)  # variables that change bits
BESIDE, OUTLINE, SPENT = "beside/", "outline", "build_seconds"  # names in a file
State = Mapping[str, Tensor]


class Stateful(Protocol):
    """A network, an optimiser, a schedule of its rate, or anything else with a state of the same form."""

    def state_dict(self) -> dict[str, Any]:
        """Dicts, lists and tuples of tensors, numbers and texts."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Put that back."""


class Checkpoint:
    """One file for one training. A state is due every so many steps, and before a minute's work could be lost.

    One that was left by other code, on another processor or with another number of threads is not taken: what goes
    on from it would not end as one that was never stopped.
    """

    def __init__(self, path: Path, every: int = 1000, building: Building | None = None) -> None:
        self.path, self._every, self._building = path, every, building
        self._pace = Pace() if building is None else building.pace
        self._origin = _origin_of(building)

    @property
    def every(self) -> int:
        """A state is due after a step whose number this divides: any, by the clock. To be asked once a step."""
        return 1 if self._pace.due() else self._every

    @classmethod
    def of(cls, store: Store, kind: str, recipe: Recipe, every: int | None = None) -> Checkpoint:
        """The file of what is to become the artifact of this recipe, in the store's directory `unfinished`."""
        path = directory(store.root) / f"{recipe_key(kind, recipe)}.safetensors"
        return cls(path) if every is None else cls(path, every)

    def load(
        self, fits: Callable[[State], bool] = lambda state: True, device: torch.device | None = None
    ) -> tuple[State, Mapping[str, float]] | None:
        """Tensors and facts of the last state; None without one, or where it cannot be read or taken.

        It is not where it does not `fit`, or was made on another kind of `device`.
        """
        try:
            state = read_artifact(self.path) if self.path.exists() else None
            origin = dict(json.loads(read_header(self.path).get("origin", "{}"))) if state else {}
        except (UsageError, ValueError, TypeError):
            return None  # nothing is lost but time
        made_on = origin.pop("device", "")
        if state is None or origin != self._origin or (device is not None and made_on != device.type):
            return None
        tensors = {name: value for name, value in state.tensors.items() if not name.startswith(BESIDE)}
        beside = self._beside
        if not fits(tensors) or not all(BESIDE + name in state.tensors for name in beside):
            return None
        for name, tensor in beside.items():
            tensor.copy_(state.tensors[BESIDE + name])
        if self._building is not None:
            self._building.took(state.info[SPENT])
        return tensors, state.info

    def save(self, tensors: State, facts: Mapping[str, float]) -> None:
        """Replace the last state by this one, at once or not at all; whatever waits is written before it."""
        if self._building is not None:
            waiting, self._building.waiting = self._building.waiting, []
            for part in waiting:
                self._write(part)
        self._write(self._part(tensors, facts))
        self._pace.restart()

    def finish(self, tensors: State, facts: Mapping[str, float]) -> None:
        """Keep the end of one of several parts until what all of them make is in the store.

        What took moments is not written, as long as it would not be missed.
        """
        if self._building is None:
            return
        if self._pace.due():
            self.save(tensors, facts)
        else:
            copies = {name: value.detach().clone() for name, value in tensors.items()}
            self._building.waiting.append(self._part(copies, facts))

    def clear(self) -> None:
        """The training is finished: its result is in the store."""
        self.path.unlink(missing_ok=True)

    @property
    def _beside(self) -> Mapping[str, Tensor]:
        return {} if self._building is None else self._building.beside

    def _part(self, tensors: State, facts: Mapping[str, float]) -> Finished:
        beside = {BESIDE + name: value.clone() for name, value in self._beside.items()}
        spent = {} if self._building is None else {SPENT: self._building.seconds}
        return Finished(self.path, {**tensors, **beside}, {**facts, **spent})

    def _write(self, part: Finished) -> None:
        devices = {tensor.device.type for tensor in part.tensors.values()} - {"cpu"}
        origin = {**self._origin, "device": next(iter(devices), "cpu")}
        header = {"info": json.dumps(part.facts), "origin": json.dumps(origin)}
        write_atomically(part.path, packed(part.tensors, header))


def unfinished() -> Checkpoint | None:
    """The checkpoint of the next part of what the store has being built; None where nothing is.

    Parts are known by their order, so a build asks for them in the same order each time. They go when it is stored.
    """
    building = current()
    return None if building is None else Checkpoint(building.next_part(), NEVER, building)


def kept(make: Callable[[], Tensor], device: torch.device) -> Tensor:
    """A piece of long work without steps, such as a batch of answers, on a device: in a build, made once.

    Where an earlier process was killed after this piece, it is read instead. `make` must depend on nothing but what
    the recipe holds, and draw from no global generator.
    """
    part = unfinished()
    if part is None:
        return make()
    if (found := part.load(lambda state: "made" in state, device)) is not None:
        return found[0]["made"].to(device)
    made = make()
    part.finish({"made": made}, {})
    return made


def keep_beside(tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors that change in place during a build, such as counts, with every part of it."""
    if (building := current()) is not None:
        building.beside.update(tensors)


def state_of(*parts: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """All that decides how a training goes on, as tensors by name: numbers and texts are in one of them, as JSON."""
    state: dict[str, Tensor] = {}
    outline = [
        [name, _outlined(part.state_dict(), name, state)] for many in parts for name, part in many.items()
    ]
    text = bytearray(json.dumps(outline).encode())
    return {**state, OUTLINE: torch.frombuffer(text, dtype=torch.uint8)}


def restore(state: State, *parts: Mapping[str, Stateful]) -> None:
    """Put a state back into the parts that `state_of` took it from, in place."""
    outline = dict(json.loads(bytes(state[OUTLINE].tolist())))
    for name, part in ((name, part) for many in parts for name, part in many.items()):
        part.load_state_dict(_filled(outline[name], state))


def fits(state: State, *parts: Mapping[str, Stateful]) -> bool:
    """Is this a state of parts of these names, with networks of these shapes?"""
    if OUTLINE not in state:
        return False
    outline = dict(json.loads(bytes(state[OUTLINE].tolist())))
    named = {name: part for many in parts for name, part in many.items()}
    return outline.keys() == named.keys() and all(
        _shapes(_filled(outline[name], state)) == _shapes(part.state_dict())
        for name, part in named.items()
        if isinstance(part, nn.Module)
    )


def _shapes(state: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}


def _outlined(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON, its tensors put aside by name. Raises TypeError for what is no state."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name, "strides": value.stride()}
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, _outlined(v, f"{name}/{key}", tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_outlined(v, f"{name}/{n}", tensors) for n, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name}: a {type(value).__name__} cannot be kept as part of the state of a training; expected "
        "dicts and lists of tensors, numbers and texts"
    )


def _filled(outline: Any, tensors: State) -> Any:
    """The inverse of `_outlined`."""
    if not isinstance(outline, dict):
        return outline
    if "tensor" in outline:
        # In the memory layout it had: in another one the next step would be rounded otherwise.
        value, strides = tensors[outline["tensor"]], outline["strides"]
        if 0 in strides:  # one value stands for many
            return value
        return torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)
    if "dict" in outline:
        return {key: _filled(v, tensors) for key, v in outline["dict"]}
    values = [_filled(v, tensors) for v in next(iter(outline.values()))]
    return tuple(values) if "tuple" in outline else values


def _origin_of(building: Building | None) -> Mapping[str, Any]:
    """What besides the recipe decides the bits of a training; of a build as it was when it began."""
    if building is None:
        return _origin("")
    if not building.origin:
        building.origin = _origin(_code_of(building.build))
    return building.origin


def _origin(code: str) -> dict[str, Any]:
    return {
        **machine.described(torch.device("cpu")),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "variables": [os.environ.get(name) for name in ROUNDING],
        "core": _core(),
        "code": code,
    }


@functools.cache
def _core() -> str:
    """A hash of every file of the core."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _code_of(build: Callable[[], Any]) -> str:
    """A hash of the plugin's code that a build is written in; empty for the core's own, and where it is in no file."""
    function = build.func if isinstance(build, functools.partial) else build
    name = str(getattr(function, "__module__", ""))
    in_file = getattr(sys.modules.get(name), "__file__", None)
    return code_digest(function) if in_file and name.partition(".")[0] != CORE else ""
