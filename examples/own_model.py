"""Attack a torch model of your own with one call: robust accuracy with its interval, and the red flags.

Run it from anywhere, once the package is installed: `python examples/own_model.py`.
"""

import torch
from torch import nn

from robustbench_gan import run_attack
from robustbench_gan.training import Workshop

# Images as a model takes them, (N, C, H, W) in [0, 1]: here drawn digits that come with the package.
data = Workshop().dataset("control-digits")
x, y = data.train.pixels(), data.train.labels

# Any module that maps images to logits. Normalisation belongs inside it.
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
optimiser = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(60):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimiser.step()
model.eval()

x, y = data.test.pixels(slice(0, 100)), data.test.labels[:100]
found = run_attack("pgd:steps=20", model, x, y, norm="linf", epsilons=["8/255", 0.1])
print(found)

# A minimal-norm attack runs once, and tells how far the images are from being misclassified.
smallest = run_attack("deepfool", model, x, y, norm="l2")
print(f"DeepFool: half of the images fall to a change of l2 size {smallest.median_size:.3f}")
