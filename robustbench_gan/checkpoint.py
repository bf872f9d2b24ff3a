"""The state of an unfinished training on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_gan.errors import UsageError
from robustbench_gan.files import write_atomically
from robustbench_gan.store import Recipe, Store, packed, read_artifact, recipe_key

SECONDS = 60.0  # between two states at most


class Checkpoint:
    """One file for one training. A state is due every so many steps, and as soon as the last one is a minute old."""

    def __init__(self, path: Path, every: int = 1000) -> None:
        self.path, self._every, self._saved = path, every, time.monotonic()

    @property
    def every(self) -> int:
        """A state is due after a step whose number this divides: any, where the last state is SECONDS old."""
        return 1 if time.monotonic() - self._saved >= SECONDS else self._every

    @classmethod
    def of(cls, store: Store, kind: str, recipe: Recipe, every: int | None = None) -> Checkpoint:
        """The file of what is to become the artifact of this recipe, in the store's directory `unfinished`."""
        path = store.root / "unfinished" / f"{recipe_key(kind, recipe)}.safetensors"
        return cls(path) if every is None else cls(path, every)

    def load(self) -> tuple[Mapping[str, Tensor], Mapping[str, float]] | None:
        """Tensors and facts of the last state; None without one, or where it cannot be read."""
        try:
            state = read_artifact(self.path) if self.path.exists() else None
        except UsageError:
            return None  # nothing is lost but time
        return None if state is None else (state.tensors, state.info)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, float]) -> None:
        """Replace the last state by this one, at once or not at all."""
        write_atomically(self.path, packed(tensors, {"info": json.dumps(dict(facts))}))
        self._saved = time.monotonic()

    def clear(self) -> None:
        """The training is finished: its result is in the store."""
        self.path.unlink(missing_ok=True)


def state_of(
    networks: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Adam]
) -> dict[str, Tensor]:
    """Every tensor that decides how a training goes on, by name."""
    state = {f"{n}/{key}": value for n, net in networks.items() for key, value in net.state_dict().items()}
    for name, optimiser in optimisers.items():
        for at, values in optimiser.state_dict()["state"].items():
            state.update({f"{name}/{at}/{key}": torch.as_tensor(value) for key, value in values.items()})
    return state


def restore(
    state: Mapping[str, Tensor], networks: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Adam]
) -> None:
    """Put a state back into the networks and optimisers that `state_of` took it from, in place."""
    for name, network in networks.items():
        network.load_state_dict({key: state[f"{name}/{key}"] for key in network.state_dict()})
    for name, optimiser in optimisers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for at, parameter in enumerate(parameters):
            found = {key: value for key, value in state.items() if key.startswith(f"{name}/{at}/")}
            # In the parameter's memory layout: in another one the next step would be rounded otherwise.
            moments[at] = {
                key.rpartition("/")[2]: (
                    torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                )
                for key, value in found.items()
            }
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
