"""A network whose answers have other forms, attacked, and what the attack comes to on its logits."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from planted import Linear, images
from torch import Tensor, nn

from robustbench_gan import run_attack

N, K = 12, 3
X = images(N)
NET = Linear(K).eval()
with torch.no_grad():
    NET.bias -= NET(X).mean(dim=0)  # or one class would win everywhere
    Y = NET(X).argmax(dim=1)
Pair = namedtuple("Pair", "loss logits")


@dataclass
class ModelOutput:
    logits: Tensor
    hidden: Tensor


class Answers(nn.Module):
    """A network whose answer is given another form."""

    def __init__(self, form, net=NET):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        return self.form(self.net, x)


def attacked(model, attack="pgd:steps=20", **more):
    with torch.random.fork_rng(devices=[]):
        return run_attack(attack, model.eval(), X, Y, **{"epsilons": 0.05, **more})


WANTED = attacked(NET)

UNPACKED = {
    "tuple": lambda m, x: (m(x), x),
    "list of one": lambda m, x: [m(x)],
    "loss and logits": lambda m, x: (m(x).square().mean(), m(x)),
    "namedtuple": lambda m, x: Pair(None, m(x)),
    "dict": lambda m, x: {"logits": m(x), "features": m(x) * 2},
    "dict of one": lambda m, x: OrderedDict(out=m(x)),
    "dataclass": lambda m, x: ModelOutput(m(x), m(x)),
    "(N, K, 1, 1)": lambda m, x: m(x)[:, :, None, None],
    "parameter": lambda m, x: m(x).as_subclass(nn.Parameter),
    "edits its input": lambda m, x: m(x.mul_(1.0)),
    "edits it through data": lambda m, x: m((x.data.sub_(0.25), x + 0.25)[1]),
    "edits it through numpy": lambda m, x: (m(x), x.detach().numpy().fill(0.5))[0],
}


def net(**options):
    """The network with its weights in another precision or place."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(16, K, **options))
    if options.get("device") != "meta":
        with torch.no_grad():
            made[1].weight.copy_(NET.weight)
            made[1].bias.copy_(NET.bias)
    return made.eval()


REFUSED = {
    "(N,)": (lambda m, x: m(x)[:, 0], "one number an image is no class; give two logits"),
    "(N, 1)": (lambda m, x: m(x)[:, :1], "one number an image is no class; give two logits"),
    "(N, 1, 1, 1)": (lambda m, x: m(x)[:, :1, None, None], "give two logits"),
    "(K, N)": (lambda m, x: m(x).T, "one row an image"),
    "segmentation": (lambda m, x: m(x)[:, :, None, None].expand(-1, -1, 2, 2), "one column a class"),
    "classes": (lambda m, x: m(x).argmax(1), "what comes before argmax"),
    "one-hot": (lambda m, x: nn.functional.one_hot(m(x).argmax(1), K), "what comes before argmax"),
    "bool": (lambda m, x: m(x) > 0, "what comes before argmax"),
    "complex": (lambda m, x: m(x).to(torch.complex64), "return real numbers"),
    "sparse": (lambda m, x: m(x).to_sparse(), "to_dense"),
    "(N, 1, K)": (lambda m, x: m(x)[:, None], r"logits\[:, 0\]"),
    "None": (lambda m, x: None, "answers NoneType"),
    "numpy": (lambda m, x: m(x).detach().numpy(), "ndarray"),
    "text": (lambda m, x: "cat", "answers str"),
    "two of one form": (lambda m, x: (m(x), m(x)), "which are the logits"),
    "dict of two": (lambda m, x: {"a": m(x), "b": m(x)}, "which are the logits"),
    "empty tuple": (lambda m, x: (), "answers tuple"),
    "logits that are none": (lambda m, x: {"logits": m(x).argmax(1)}, "int64 within a dict"),
    "raises": (lambda m, x: m(x) @ m(x), "fails on 2 clean images.*RuntimeError"),
    "squeezed": (lambda m, x: m(x).squeeze(0), r"answers \(3,\).*for 1 images"),
    "two classes for three": (lambda m, x: m(x)[:, :2], "y holds 2"),
}
