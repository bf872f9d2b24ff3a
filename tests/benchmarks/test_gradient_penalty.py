"""WGAN-GP's gradient penalty through the critic's own slope, against autograd through its backward pass."""

import torch
from harness import compare
from rbg_defenses._wgan import Critic


def test_gradient_penalty(benchmark):
    """A batch of 50 at width 64; `success` is the share of the pulls on weights that agree with autograd."""
    torch.manual_seed(0)
    critic, x = Critic((1, 28, 28), 64).to(memory_format=torch.channels_last), torch.rand(50, 1, 28, 28)
    weights = [w for name, w in critic.named_parameters() if name.endswith("weight")]

    def pull(slope):
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(penalty, weights)]).expand(len(x), -1)

    def by_autograd():
        leaf = x.clone().requires_grad_()
        return pull(torch.autograd.grad(critic(leaf).sum(), leaf, create_graph=True)[0])

    exact = by_autograd()

    def quality(pulls):
        near = torch.isclose(pulls, exact, rtol=1e-3, atol=1e-6 * float(exact.abs().max()))
        return float(near.double().mean()), float(pulls.norm())

    compare(
        benchmark, "WGAN-GP gradient penalty", setting="a critic of width 64 and its weights' gradients",
        ours=lambda: pull(critic.slope(x)),
        others={"autograd, twice": by_autograd},
        quality=quality,
        faster={"autograd, twice": 1.2},
        rounds=9,
    )  # fmt: skip
