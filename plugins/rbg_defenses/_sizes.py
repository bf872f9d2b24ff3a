"""The sizes of images that networks of several defenses can make."""

from __future__ import annotations

from rbg_defenses._wgan import SIDES

Shape = tuple[int, int, int]


def not_generated(shape: Shape, name: str) -> str:
    """Why Defense-GAN's generator makes no images of this shape, for the defense `name`; empty where it does."""
    _, height, width = shape
    if height == width and height in SIDES:
        return ""
    sides = " or ".join(map(str, SIDES))
    return f"{name} makes images of {sides} pixels a side, not {height}x{width}: resize the data"
