"""What counts as tiny, the same or outside while a cell runs: part of the engine, for it cannot be counted again."""

from __future__ import annotations

from typing import Final

TINY_GRADIENT: Final = 1e-12  # a gradient whose largest value is below this has vanished
SATURATED_CONFIDENCE: Final = 1e-7  # a softmax this close to 1 is saturated in float32
LEARNT_NOTHING: Final = 0.95  # of the gradients of an attack's training; where so many are zero it had no aim
SAME_ANSWER: Final = (
    1e-4  # relative l2 distance of logits up to which two answers are one (AutoAttack's check)
)
OUTSIDE: Final = 0.01  # how far a value may leave [0, 1] before it is well outside
