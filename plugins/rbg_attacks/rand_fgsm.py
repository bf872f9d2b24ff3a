"""FGSM after a small random step."""

from __future__ import annotations

from torch import Tensor

from robustbench_gan.contracts import Budget, Goal, UsageError, View, attack
from robustbench_gan.seeds import signs


@attack(norms=("linf",), needs="gradient", paper="Tramer et al. 2018, arXiv 1705.07204")
def rand_fgsm(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, alpha: float = 0.05
) -> Tensor:
    """RAND+FGSM (Tramer et al. 2018, eq. 2-3 of Defense-GAN): a random sign step of alpha, FGSM with the rest.

    x is (N, C, H, W) in [0, 1]; returns the same shape. Where eps is below alpha the random step is all of
    eps. Raises UsageError for a negative alpha.
    """
    if alpha < 0:
        raise UsageError(f"rand-fgsm:alpha={alpha} is negative; expected 0 to eps.")
    alpha = min(alpha, budget.eps)
    start = (x + alpha * signs(seed, x.shape[1:]).to(x.device)).clamp(0, 1)
    _, grad, _ = view.value_and_grad(goal.loss, start)
    return (start + (budget.eps - alpha) * grad.sign()).clamp(0, 1)
