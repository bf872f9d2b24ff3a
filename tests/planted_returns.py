"""Plugins that return, edit or look up what they should not, each by one way, registered by `test_guard`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal


class Agrees(Tensor):
    """Is as far from anything as it is asked to be: not at all."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        if func in (Tensor.sub, Tensor.__sub__, Tensor.__rsub__):
            return torch.zeros_like(out)
        return out.as_subclass(Agrees) if func in (Tensor.detach, Tensor.clone) else out


def stepped(view: View, x: Tensor, goal: Goal, budget: Budget) -> Tensor:
    """FGSM: what every honest attack here comes to."""
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + budget.eps * grad.sign()).clamp(0, 1)


FORMS: dict[str, Callable[[Tensor], object]] = {
    "plain": lambda made: made,
    "subclass": lambda made: (1 - made).as_subclass(Agrees),
    "parameter": lambda made: nn.Parameter(made),
    "sparse": lambda made: made.to_sparse(),
    "meta": lambda made: made.to("meta"),
    "complex": lambda made: made.to(torch.complex64),
    "half": lambda made: made.half(),
    "list": lambda made: list(made),
    "array": lambda made: made.numpy(),
    "graph": lambda made: made.requires_grad_() * 1,
    "inference": lambda made: torch.inference_mode()(made.clone)(),
    "channels": lambda made: made.contiguous(memory_format=torch.channels_last),
    "negative": lambda made: torch._neg_view(-made),
    "strided": lambda made: torch.stack([made, 1 - made], dim=-1)[..., 0],
    "flipped": lambda made: made.flip(0).contiguous().as_strided(made.shape, made.stride()).flip(0),
}


@attack(norms=("linf",), needs="gradient", paper="planted")
def returns(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, form: str = "plain"
) -> Tensor:
    """FGSM, given back in another form."""
    return FORMS[form](stepped(view, x, goal, budget))  # type: ignore[return-value]


def _by_numpy(x: Tensor) -> None:
    x.detach().numpy()[...] *= 0.5


EDITS: dict[str, Callable[[Tensor], object]] = {
    "clamp": lambda x: x.clamp_(0, 1),  # of an image in [0, 1] it changes nothing, and counts
    "data": lambda x: x.data.mul_(0.5),
    "flip": lambda x: x.data.copy_(x.detach().flip(0)),  # no sum would show it
    "detached": lambda x: x.detach().fill_(0.5),
    "numpy": _by_numpy,
    "row": lambda x: x.detach()[0].zero_(),
}


class EditsInput(Defense):
    """Edits the images it is given: always, or only where it is not `asked` for a gradient, or only where it is."""

    purifies = True

    def __init__(self, base: nn.Module, *, by: str = "clamp", when: str = "always") -> None:
        super().__init__(base)
        self.by, self.when = by, when

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        asked = x.requires_grad
        if self.when == "always" or (self.when == "asked") == asked:
            with torch.no_grad():
                EDITS[self.by](x)
        return x * 1.0


class EditsScored(Defense):
    """A detector that normalises in place what it looks at."""

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return purified.detach().sub_(0.5).flatten(1).amax(dim=1, keepdim=True) - 2


class ReturnsOther(Defense):
    """A purifier that gives back anything but a plain tensor of the form of its input."""

    purifies = True

    def __init__(self, base: nn.Module, *, form: str = "subclass", hook: str = "purify") -> None:
        super().__init__(base)
        self.form, self.hook = form, hook

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return FORMS[self.form](x.detach()) if self.hook == "purify" else x * 1.0  # type: ignore[return-value]

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        return FORMS[self.form](x.detach()) if self.hook == "surrogate" else x  # type: ignore[return-value]

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        found = x.new_zeros(len(x), 1)
        return FORMS[self.form](found) if self.hook == "scores" else found  # type: ignore[return-value]


class NearestTest(Defense):
    """Looks the answer up in the images that it will be judged on, by whatever way leads to them."""

    purifies = True
    gradients = ("bpda",)  # type: ignore[assignment]

    def __init__(self, base: nn.Module, *, way: str = "test") -> None:
        super().__init__(base)
        self.way = way

    def fit(self, data, seed, store):
        if self.way == "holdout":
            self.known = data.black_box_holdout()[1].images
        elif self.way == "memory":
            held = data.train.images
            self.known = (held if held._base is None else held._base)[-50:]
        else:
            self.known = getattr(data, self.way).images

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        known = self.known.float() / 255
        return known[torch.cdist(x.flatten(1), known.flatten(1)).argmin(dim=1)]
