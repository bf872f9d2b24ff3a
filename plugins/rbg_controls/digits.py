"""A small part of MNIST, on which every control is trained and judged in seconds."""

from __future__ import annotations

from robustbench_gan.contracts import Dataset, UsageError, registry


def digits(*, train: int = 3000, validation: int = 500, tests: int = 250) -> Dataset:
    """Control: the first images of each split of MNIST, (1, 28, 28), for self-tests and not for results.

    Raises UsageError for fewer than one image, or more than MNIST has.
    """
    whole: Dataset = registry.load("datasets", "mnist")()
    parts = []
    for name, wanted in (("train", train), ("validation", validation), ("test", tests)):
        split = getattr(whole, name)
        if not 0 < wanted <= len(split):
            raise UsageError(
                f"control-digits: {wanted} images for {name}: MNIST has {len(split)}; give 1 to that."
            )
        parts.append(split.take(slice(0, wanted)))
    return Dataset("control-digits", whole.classes, *parts)
