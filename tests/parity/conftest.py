"""Trained networks to compare on."""

from trained import colour_cnn, mnist_cnn, trained_store

__all__ = ["colour_cnn", "mnist_cnn", "trained_store"]
