"""JPEG compression: the image as it comes out of a lossy file."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from robustbench_gan.contracts import Dataset, Defense, Gradient, UsageError
from robustbench_gan.training import Store

MODES = {1: "L", 3: "RGB"}  # Pillow's names, by number of channels
LARGEST = 65500  # pixels a side that libjpeg writes
HALVED_COLOUR = 2  # Pillow's 4:2:0: colour at half the resolution, what most files have


class JPEG(Defense):
    """JPEG compression (Das et al. 2017; Guo et al. 2018): each image written to a JPEG file and read again.

    A cheap purifier to compare with. `quality` is Pillow's, 1 to 95, a smaller one removes more; the default is
    ours. Images are rounded to 8 bits first; colour is kept at half the resolution (4:2:0). The file has no
    gradient: `full` is refused, BPDA with the identity (Athalye et al. 2018) applies. Not random. Raises UsageError
    for a quality outside 1 to 95 and for images that are neither grey nor of three colours.
    """

    purifies = True

    def __init__(self, base: nn.Module, *, quality: int = 75) -> None:
        super().__init__(base)
        if not 1 <= quality <= 95:
            raise UsageError(
                f"jpeg:quality={quality} is no JPEG quality: give 1 (smallest file) to 95 (nearest)."
            )
        self.quality = quality

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """BPDA alone."""
        return ("bpda",)

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        """The format has images of some sizes alone."""
        channels, height, width = shape
        if channels in MODES and max(height, width) <= LARGEST:
            return ""
        return (
            f"jpeg takes images of 1 or 3 channels and at most {LARGEST} pixels a side, not {channels} channels of "
            f"{height}x{width}"
        )

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Nothing is trained; only the size of the images is looked at."""
        if why := self.why_not(data.shape, len(data.classes)):
            raise UsageError(f"{why}.")

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """What a JPEG reader makes of each image alone, in [0, 1]; detached."""
        pixels = (x.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        if len(pixels) == 0:
            return x.detach()
        back = torch.from_numpy(np.stack([self._round_trip(image) for image in pixels]))
        return back.permute(0, 3, 1, 2).to(x.device, torch.float32) / 255

    def _round_trip(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """One image (H, W, C) uint8, written and read."""
        channels, file = image.shape[2], io.BytesIO()
        written = Image.fromarray(image[:, :, 0] if channels == 1 else image)
        written.save(file, "JPEG", quality=self.quality, subsampling=HALVED_COLOUR)
        with Image.open(file) as read:
            return np.asarray(read, dtype=np.uint8).reshape(image.shape)
