"""What run_attack found: tensors, the shares that follow from them and the red flags, in a few lines or in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import importlib_metadata
from torch import Tensor

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.statistics import Interval, interval
from robustbench_gan.results.examples import write_examples

MORE = ("success", "size", "right", "forward", "backward")  # tensors beside examples and labels


@dataclass(frozen=True, repr=False)
class Attacked:
    """What an attack did to N images at E budgets.

    `examples` is (E, N, C, H, W), `success` and `size` (E, N): whether the goal was reached inside the budget, and
    the perturbation's size in `norm`. `right` is (N,): the unperturbed image was classified right. `forward` and
    `backward` are the passes, (E, N); a minimal-norm attack is run once and its passes stand at every budget.
    `labels` are the true classes (N,), `targets` those to be reached, if any. `flags` are the red flags raised, each
    once, as it is worst over the budgets: with one of severity `invalid` the number cannot be trusted.
    """

    norm: str
    epsilons: tuple[float, ...]
    examples: Tensor
    success: Tensor
    size: Tensor
    right: Tensor
    forward: Tensor
    backward: Tensor
    attack: str
    labels: Tensor
    targets: Tensor | None = None
    flags: tuple[Flag, ...] = ()

    @property
    def robust_accuracy(self) -> list[Interval]:
        """At each budget the share of images right unperturbed that the attack did not win, with its n and interval."""
        robust = (self.right & ~self.success).double().numpy(force=True)
        return [interval(row, f"{self.norm}/{eps}") for row, eps in zip(robust, self.epsilons, strict=True)]

    @property
    def median_size(self) -> float:
        """The median size of the successes at the largest budget, of images right unperturbed; NaN without one."""
        largest = self.epsilons.index(max(self.epsilons))
        won = self.size[largest][self.success[largest] & self.right]
        return float(won.double().quantile(0.5)) if len(won) else float("nan")

    @property
    def suspect(self) -> bool:
        """A flag says that these numbers cannot be trusted."""
        return any(flag.severity == "invalid" for flag in self.flags)

    def __repr__(self) -> str:
        """A few lines: what was attacked, the numbers at each budget, and the flags."""
        n, goal = len(self.right), "untargeted" if self.targets is None else "targeted"
        lines = [
            f"{self.attack} in {self.norm}, {goal}, on {n} images, {int(self.right.sum())} of them right unperturbed"
            + (": SUSPECT, see the flags" if self.suspect else "")
        ]
        for eps, robust, won in zip(self.epsilons, self.robust_accuracy, self.success, strict=True):
            lines.append(
                f"  eps {eps:.6g}: robust accuracy {robust} (n = {n}), goal reached {int(won.sum())}"
            )
        lines.append(f"  median size of the successes: {self.median_size:.4g}")
        return "\n".join([*lines, *(f"  {described(flag)}" for flag in self.flags)])

    def save(self, path: str | Path) -> None:
        """Write the tensors to a safetensors file, and all else as text into its metadata; replaces a file.

        `robustbench_gan.read_examples` reads it, as it does the files of `rbg evaluate --keep-adversarial`. Raises
        UsageError where it cannot be written.
        """
        to = Path(path).expanduser()
        if to.is_dir():
            raise UsageError(
                f"{to} is a directory: give the name of a file, such as {to / 'found.safetensors'}."
            )
        tensors = {name: getattr(self, name) for name in MORE}
        if self.targets is not None:
            tensors["targets"] = self.targets
        facts = {
            "attack": self.attack,
            "norm": self.norm,
            "epsilons": json.dumps([repr(eps) for eps in self.epsilons]),
            "robust_accuracy": json.dumps([r.model_dump(mode="json") for r in self.robust_accuracy]),
            "flags": json.dumps([flag.model_dump(mode="json") for flag in self.flags]),
            "suspect": json.dumps(self.suspect),
            "versions": json.dumps(
                {name: importlib_metadata.version(name) for name in ("robustbench-gan", "torch")}
            ),
        }
        write_examples(to, self.examples, self.labels, facts, tensors)


def described(flag: Flag) -> str:
    """A flag in one line, with its evidence."""
    facts = ", ".join(f"{name} {value}" for name, value in flag.evidence.items())
    return f"{flag.severity}: {flag.id}: {flag.message.rstrip('.')}" + (f" ({facts})" if facts else "")
