"""Red flags: signs that a number does not mean what it says. The catalogue, and those across cells. No torch."""

from robustbench_gan.flags.catalogue import BY_CONSTRUCTION, CATALOGUE, explained, flag, known
from robustbench_gan.flags.known import COMPUTED, Known

__all__ = ["BY_CONSTRUCTION", "CATALOGUE", "COMPUTED", "Known", "explained", "flag", "known"]
