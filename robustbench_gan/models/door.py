"""The one door for classifiers: from the registry, a file, a plugin or run_attack, all enter here.

What a classifier answers is made logits (N, K) in float32, or refused in one line. That is looked at on two clean
images as it enters, and cheaply at every answer. A module keeps its identity and the names of its weights: what the
door does sits in hooks. A compiled program takes none and stands in a `Program`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import UsageError, described, said
from robustbench_gan.base.tensors import form, same, version
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.models.logits import WrongForm, logits_of
from robustbench_gan.models.program import Program, is_program
from robustbench_gan.nouns.outcome import Output, distance
from robustbench_gan.nouns.seeds import isolated

LOOKED_AT = 2  # clean images that a classifier is shown as it enters
APART = (2, 0)  # of many that were answered together, those that are asked again: no neighbours, nor in order
T = TypeVar("T")


class First(NamedTuple):
    """What a system answered first: to which images of those given, (n,), next to the first of these again, and how."""

    rows: Tensor
    out: Output
    again: Output
    differentiates: bool

    @property
    def steady(self) -> bool:
        """It answered the same twice in a row, which one that alternates does not, whatever it was asked before."""
        return distance(self.out.rows(slice(len(self.again.logits))), self.again) <= SAME_ANSWER


class _Hooks:
    """What is done to a classifier's input, and to its answer. Copied with the module that it hangs on."""

    def __init__(self) -> None:
        self.copies = False  # it edits its input, and so is given a copy
        self.dtype: torch.dtype | None = None  # of all its weights, where it takes no other input
        self.reuses = False  # it answers in the same memory each time, and so its answers are copied
        self.classes = 0  # how many it has answered with
        self.version = -1  # of the input that it holds
        self.looking = False  # it is being found out what it does
        self.first: First | None = None  # what it answered then

    def before(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Images as the classifier wants them."""
        if not given or not isinstance(given[0], Tensor):
            return None
        self.version = version(given[0])
        if not (self.copies or self.dtype):
            return None
        x = given[0].clone() if self.copies else given[0]
        return (x if self.dtype is None else x.to(self.dtype), *given[1:])

    def after(self, module: nn.Module, given: tuple[Any, ...], answer: Any) -> Any:
        """Logits (N, K) float32. Raises WrongForm also where an input was edited of which it was given no copy."""
        if not given or not isinstance(given[0], Tensor):
            return answer
        known = self.classes and not self.looking  # in training it was not looked at yet
        if known and not (self.copies or self.dtype) and version(given[0]) != self.version:
            raise WrongForm(
                "the classifier edited its input in place, and not at first: work on a copy, x.clone()."
            )
        logits = logits_of(answer, len(given[0]))
        if known and logits.shape[1] != self.classes:
            raise WrongForm(
                f"the classifier answers with {logits.shape[1]} classes after {self.classes}: the number of classes "
                "must not change."
            )
        return logits.clone() if self.reuses else logits


def admitted(model: nn.Module) -> nn.Module:
    """A classifier inside the door: itself with hooks, or a Program around it. Nothing is asked of it yet."""
    return _admit(model)[0]


@contextmanager
def visiting(
    models: Iterable[nn.Module], clean: Tensor, classes: int, labelled: str
) -> Iterator[list[nn.Module]]:
    """Other people's classifiers come in, are looked at, and leave as they were. Raises UsageError as `look`."""
    inside, handles = [], []
    try:
        for model in models:
            guest, own = _admit(model)
            handles += own
            try:
                look(guest, clean, classes, labelled)
            except WrongForm as error:
                raise UsageError(str(error)) from error
            inside.append(guest)
        yield inside
    finally:
        for handle in handles:
            handle.remove()


def _admit(model: nn.Module) -> tuple[nn.Module, list[Any]]:
    """A module with the door's hooks, and the handles of those that were put on."""
    inside = Program(model) if is_program(model) else model
    if _hooks_of(inside) is not None:
        return inside, []
    hooks = _Hooks()
    first = inside.register_forward_pre_hook(hooks.before)
    return inside, [first, inside.register_forward_hook(hooks.after)]


def _hooks_of(model: nn.Module) -> _Hooks | None:
    owners = (getattr(hook, "__self__", None) for hook in model._forward_hooks.values())
    return next((owner for owner in owners if isinstance(owner, _Hooks)), None)


def look(model: nn.Module, clean: Tensor, classes: int, labelled: str = "the data set") -> None:
    """Ask an admitted classifier about two clean images (2, C, H, W) and about one; find out what it wants as input.

    `classes` is how many labels it is judged by; logits beyond those are other answers, which are wrong. Raises
    WrongForm where it cannot be asked or answers with no logits.
    """
    hooks = _hooks_of(model)
    assert hooks is not None, "not admitted"
    _check_weights(model)
    rows = torch.tensor(
        APART if len(clean) > max(APART) else range(min(LOOKED_AT, len(clean))), device=clean.device
    )
    clean = clean.detach()[rows]
    hooks.looking = True
    try:
        with torch.no_grad(), isolated(0):
            try:
                logits, differentiates = watched(lambda: _asked(model, hooks, clean))
            except _Edits:
                hooks.copies = True
                logits, differentiates = watched(lambda: _asked(model, hooks, clean))
            one = _asked(model, hooks, clean[:1])
    finally:
        hooks.looking = False
    hooks.first = First(rows, Output.of(logits.clone()), Output.of(one.clone()), differentiates)
    hooks.reuses = logits.untyped_storage().data_ptr() == one.untyped_storage().data_ptr()
    hooks.classes = logits.shape[1]
    if hooks.classes < classes:
        raise WrongForm(
            f"the classifier has {hooks.classes} classes, fewer than the {classes} of {labelled}: give it one "
            "logit a class."
        )


def _check_weights(model: nn.Module) -> None:
    """Raises WrongForm where weights have no values, or allow no gradients."""
    for tensor in (*model.parameters(), *model.buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise WrongForm(
                "the classifier has a lazy layer without values: show it an image, or load its weights, first."
            )
        if tensor.is_meta:
            raise WrongForm("the classifier lies on the meta device, without values: load its weights first.")
        if tensor.is_inference():
            raise WrongForm(
                "the classifier was made in inference mode, which allows no gradients: load it outside."
            )


def classes_of(model: nn.Module) -> int:
    """How many classes a classifier has that was looked at."""
    hooks = _hooks_of(model)
    return hooks.classes if hooks else 0


def first_answer(model: nn.Module) -> First | None:
    """What a classifier answered when it was looked at."""
    hooks = _hooks_of(model)
    return hooks.first if hooks else None


def watched(ask: Callable[[], T]) -> tuple[T, bool]:
    """The answer, and whether a backward pass fetched what a forward pass had kept for it meanwhile."""
    unpacked: list[None] = []

    def fetch(tensor: Tensor) -> Tensor:
        unpacked.append(None)
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, fetch):
            out = ask()
    except Exception as error:
        if "saved tensor hooks" not in said(error):
            raise
        return ask(), True  # torch.func refuses hooks, and only what differentiates meets them
    return out, bool(unpacked)


class _Edits(RuntimeError):
    """The classifier wrote into its input."""


def _asked(model: nn.Module, hooks: _Hooks, x: Tensor) -> Tensor:
    """The classifier's answer to a copy of x. Raises _Edits where it is not left as it was, WrongForm for no answer."""
    own = _one_dtype(model)
    for dtype in (hooks.dtype, own) if own not in (None, torch.float32, hooks.dtype) else (hooks.dtype,):
        hooks.dtype, given = dtype, x.clone()
        before = version(given)
        try:
            answer = model(given)
            break
        except WrongForm:
            raise
        except Exception as error:  # a stranger's code may raise anything
            failure = error
    else:
        raise WrongForm(_why_not(model, x, failure)) from failure
    if version(given) != before or not same(given, x):
        raise _Edits
    assert isinstance(answer, Tensor), "the hooks were gone around"
    return answer


def _one_dtype(model: nn.Module) -> torch.dtype | None:
    """The floating type of all weights, where they have but one."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None


def _why_not(model: nn.Module, x: Tensor, error: Exception) -> str:
    """One line on a classifier that cannot be asked."""
    places = {str(p.device) for p in model.parameters()}
    if places and str(x.device) not in places:
        return f"the classifier lies on {', '.join(sorted(places))} and the images on {x.device}: move one of them."
    return f"the classifier fails on {len(x)} clean images, {form(x)}: {described(error)}"
