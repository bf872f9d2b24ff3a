"""How far an attack may go: a norm and a size, as data, with the geometry that attacks need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from robustbench_gan.base.errors import UsageError, unknown
from robustbench_gan.nouns.seeds import normal, uniform

Norm = Literal["l0", "l1", "l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)
TINY = 1e-12
SLACK = 1e-6  # what float32 rounding may add to a perturbation that is inside its budget


def radius(given: Any) -> float:
    """A ball's radius as a user writes it: a number, "0.03", "8/255" or "inf"; of Python, numpy or torch.

    Raises UsageError for what is no number of 0 or more.
    """
    text = _as_text(given)
    if text in ("inf", "infinity"):
        return math.inf
    try:
        above, below = [float(part) for part in (text if "/" in text else f"{text}/1").split("/")]
    except ValueError:
        above, below = math.nan, 1.0
    if not (0 <= above < math.inf and 0 < below < math.inf and above / below < math.inf):
        raise UsageError(
            f"eps={_short(given)} is no radius: expected a number of 0 or more, such as 0.03 or 8/255."
        )
    return abs(above / below)  # -0.0 is 0.0


def norm_named(given: Any) -> Norm:
    """A norm as a user writes it: "l2", "L2", "2", 2, "linf", "inf" or inf; of Python, numpy or torch.

    Raises UsageError for one that is not known.
    """
    short = _as_text(given).removeprefix("l").removeprefix("_").removesuffix(".0")
    for norm in NORMS:
        if short == norm.removeprefix("l"):
            return norm
    raise unknown("norm", _short(given), NORMS)


def _as_text(given: Any) -> str:
    """A number or a text of Python, numpy or torch as lower-case text; empty for anything else."""
    try:
        plain = given.item() if hasattr(given, "item") else given
    except (ValueError, RuntimeError):  # of many values, or of none
        return ""
    usable = isinstance(plain, str | Real) and not isinstance(plain, bool)
    return str(plain).strip().lower() if usable else ""


def _short(given: Any) -> str:
    text = " ".join(str(given).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def flat(delta: Tensor) -> Tensor:
    """(N, C, H, W) as (N, C*H*W)."""
    return delta.flatten(start_dim=1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(N,) shaped to broadcast over `like`, (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def norm_of(delta: Tensor, norm: Norm) -> Tensor:
    """The size of each perturbation, (N,). l0 counts changed values (each channel of a pixel counts)."""
    d = flat(delta)
    if norm == "l0":
        return (d != 0).sum(dim=1).to(delta.dtype)
    if norm == "l1":
        return d.abs().sum(dim=1)
    if norm == "l2":
        return d.square().sum(dim=1).sqrt()
    return d.abs().amax(dim=1)


@dataclass(frozen=True)
class Budget:
    """A ball around each image: `norm` is l0, l1, l2 or linf, `eps` its radius on pixels in [0, 1].

    eps may be infinite (minimal-norm attacks). Raises UsageError for an unknown norm or an absurd eps.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if math.isnan(self.eps) or self.eps < 0:
            raise UsageError(f"eps={self.eps} makes no ball: eps must be 0 or more, on pixels in [0, 1].")
        if self.norm == "linf" and 1 < self.eps < math.inf:
            raise UsageError(
                f"eps={self.eps} in linf is more than all of [0, 1]; did you mean {self.eps:g}/255?"
            )

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation, (N,)."""
        return norm_of(delta, self.norm)

    def exact_size(self, delta: Tensor) -> Tensor:
        """The same summed in float64, (N,) float64: what a verdict is given on."""
        if self.norm == "l2":
            size: Tensor = torch.linalg.vector_norm(flat(delta), dim=1, dtype=torch.float64)
            return size
        return self.size(
            delta.double() if self.norm == "l1" else delta
        ).double()  # others are exact as they are

    def allows(self, size: Tensor) -> Tensor:
        """(N,) bool: perturbations of these exact sizes are inside, give or take float32 rounding; NaN is outside."""
        return size <= self.eps * (1 + SLACK) + SLACK

    def contains(self, delta: Tensor) -> Tensor:
        """(N,) bool: inside the ball, give or take float32 rounding; NaN is outside."""
        return self.allows(self.exact_size(delta))

    def steepest(self, grad: Tensor) -> Tensor:
        """The direction of unit size along which the loss rises fastest, (N, C, H, W); 0 where grad is 0.

        linf: the sign. l2: grad / its norm. l1: the one largest value (all of the mass there). l0: as l1.
        """
        if self.norm == "linf":
            return grad.sign()
        if self.norm == "l2":
            largest = norm_of(grad, "linf")  # divided out first: the square of a tiny value is 0 in float32
            grad = grad / per_sample(torch.where(largest > 0, largest, 1), grad)
            return grad / per_sample(norm_of(grad, "l2").clamp(min=TINY), grad)
        g = flat(grad)
        top = g.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(g).scatter(1, top, g.gather(1, top).sign()).view_as(grad)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest perturbation inside the ball, (N, C, H, W)."""
        if math.isinf(self.eps):
            return delta
        if self.norm == "linf":
            return delta.clamp(-self.eps, self.eps)
        if self.norm == "l2":
            shrink = (self.eps / norm_of(delta, "l2").clamp(min=TINY)).clamp(max=1)
            return delta * per_sample(shrink, delta)
        if self.norm == "l1":
            return _project_l1(delta, self.eps)
        return _keep_largest(delta, int(self.eps))

    def random(self, like: Tensor, seed: Tensor) -> Tensor:
        """A random perturbation inside the ball, (N, C, H, W), drawn from one integer a sample.

        linf: uniform in the cube. l2: uniform in the ball (Voelker 2017). l1: an l2 direction rescaled to a
        uniform fraction of the radius. l0: uniform values in [-1, 1] at eps random places.
        """
        shape = tuple(like.shape[1:])
        n = math.prod(shape)
        if self.norm == "linf":
            cube = uniform(seed, shape).to(like.device) * 2 - 1
            return cube * self.eps
        if self.norm == "l2":
            g = normal(seed, (n + 2,)).to(like.device)
            ball = (g / g.square().sum(dim=1, keepdim=True).sqrt())[:, :n]
            return ball.reshape(-1, *shape) * self.eps
        if self.norm == "l1":
            g = normal(seed, (n + 1,)).to(like.device)[:, 1:]  # the first bits give the radius
            radius = uniform(seed, (1,)).to(like.device) * self.eps
            return (g / g.abs().sum(dim=1, keepdim=True) * radius).reshape(-1, *shape)
        values = uniform(seed, (2 * n,)).to(like.device)
        places = values[:, n:].argsort(dim=1).argsort(dim=1) < int(self.eps)
        return ((values[:, :n] * 2 - 1) * places).reshape(-1, *shape)


def _project_l1(delta: Tensor, eps: float) -> Tensor:
    """Euclidean projection on the l1 ball by soft thresholding (Duchi et al. 2008), per sample, in float64."""
    d = flat(delta).double()
    magnitude = d.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - eps
    count = torch.arange(1, d.shape[1] + 1, device=d.device)
    last = (ordered * count > excess).sum(dim=1, keepdim=True).clamp(min=1) - 1
    threshold = (excess / count).gather(1, last).clamp(min=0)
    return (d.sign() * (magnitude - threshold).clamp(min=0)).to(delta.dtype).view_as(delta)


def _keep_largest(delta: Tensor, count: int) -> Tensor:
    """Zero all but the `count` values of largest magnitude of each sample."""
    d = flat(delta)
    if count >= d.shape[1]:
        return delta
    top = d.abs().topk(count, dim=1).indices
    return torch.zeros_like(d).scatter(1, top, d.gather(1, top)).view_as(delta)
