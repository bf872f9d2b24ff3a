"""A Defense-GAN of the smallest size, fitted in a moment."""

from __future__ import annotations

from planted import conv, separable
from rbg_defenses.defense_gan import DefenseGAN

TINY = {"width": 2, "latent": 4, "gan_steps": 2, "gan_batch": 4, "iterations": 3, "restarts": 2}


def fitted(store, **more):
    defense = DefenseGAN(conv(3, (1, 28, 28)), **{**TINY, **more})
    defense.fit(separable(16, (1, 28, 28), classes=3), 0, store)
    return defense
