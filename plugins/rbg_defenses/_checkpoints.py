"""Where `_wgan.py` has its checkpoints from: the recipes of trained generators hold a hash of that file's text."""

from robustbench_gan.checkpoint import Checkpoint, restore, state_of

__all__ = ["Checkpoint", "restore", "state_of"]
