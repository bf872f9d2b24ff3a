"""A trained generator in the forms that are fastest to descend through."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_defenses._wgan import Generator

TAPS = (
    (3, 1),
    (4, 2, 0),
)  # of a 5-tap kernel: those an even and an odd output row sees, from its first input row on


def _as_convolution(up: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """The 3x3 kernel (4 * out, in, 3, 3) and bias that, with a pixel shuffle, do what a transposed 5x5 does.

    Output pixel 2m + a of a transposed convolution of stride 2, kernel 5 and padding 1 is the sum over input
    pixels m + d, d in -1, 0, 1, of the weight at a + 1 - 2d, where that lies in the kernel.
    """
    weight = up.weight.detach()
    inputs, outputs = weight.shape[:2]
    kernel = weight.new_zeros(outputs, 2, 2, inputs, 3, 3)
    taps = [(a, d + 1, a + 1 - 2 * d) for a in (0, 1) for d in (-1, 0, 1) if 0 <= a + 1 - 2 * d < 5]
    for a, down, row in taps:
        for b, right, column in taps:
            kernel[:, a, b, :, down, right] = weight[:, :, row, column].T
    assert up.bias is not None
    return kernel.reshape(outputs * 4, inputs, 3, 3), up.bias.detach().repeat_interleave(4)


class FrozenGenerator(nn.Module):
    """The same function as a trained `Generator`, z (N, latent) to images in [0, 1], without weight gradients.

    Called, it can be differentiated any number of times: each transposed convolution is a 3x3 convolution on the
    small map and a pixel shuffle, which a CPU runs faster in both directions. For descent alone, `slopes` is
    faster again. Values agree to float32 rounding.
    """

    def __init__(self, trained: Generator) -> None:
        super().__init__()
        self.trained, self.width, self.first = copy.deepcopy(trained), trained.width, trained.first
        for name in ("up1", "up2", "up3"):
            kernel, bias = _as_convolution(getattr(trained, name))
            self.register_buffer(f"{name}_kernel", kernel)
            self.register_buffer(f"{name}_bias", bias)
        self._laid_out: dict[tuple[torch.dtype, torch.device], Layout] = {}

    def forward(self, z: Tensor) -> Tensor:
        """Images for latent codes."""
        side = self.first
        h = F.relu(self.trained.linear(z)).view(-1, 4 * self.width, 4, 4)
        h = h.contiguous(memory_format=torch.channels_last)  # a fifth faster again on a CPU
        h = F.relu(self._up("up1", h)[:, :, :side, :side])
        return torch.sigmoid(self._up("up3", F.relu(self._up("up2", h))))

    def _up(self, name: str, h: Tensor) -> Tensor:
        kernel, bias = getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias")
        return F.pixel_shuffle(F.conv2d(h, kernel, bias, padding=1), 2)

    def slopes(self, dtype: torch.dtype | None = None) -> Slopes:
        """Errors and their gradients in the code, computed in `dtype` (default: the weights' own)."""
        weight = self.trained.linear.weight
        where = (dtype or weight.dtype, weight.device)
        if where not in self._laid_out:
            self._laid_out[where] = Layout(self.trained, where[0])
        return Slopes(self._laid_out[where])


class Layout:
    """A generator's weights, converted once to one precision, as `Slopes` multiplies by them.

    Activations keep their channels together (channels last), the linear layer's rows are put in that order.
    """

    def __init__(self, trained: Generator, dtype: torch.dtype) -> None:
        self.dtype, self.first, self.channels = dtype, trained.first, 4 * trained.width
        weight, bias = trained.linear.weight.detach(), trained.linear.bias.detach()
        self.linear = weight.view(self.channels, 16, -1).transpose(0, 1).reshape(weight.shape).to(dtype)
        self.linear_bias = bias.view(self.channels, 16).T.reshape(-1).to(dtype)
        ups = (trained.up1, trained.up2)
        self.up = [[(a, b, self._part(up, a, b)) for a in (0, 1) for b in (0, 1)] for up in ups]
        self.up_bias = [up.bias.detach().to(dtype) for up in ups if up.bias is not None]
        self.down = [
            self._laid(up.weight) for up in ups
        ]  # transposed back, it is an ordinary strided convolution
        kernel, last_bias = _as_convolution(trained.up3)
        self.last, self.last_bias = self._laid(kernel), last_bias.to(dtype)
        self.last_down = self._laid(kernel.transpose(0, 1).flip(2, 3))

    def _laid(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _part(self, up: nn.ConvTranspose2d, a: int, b: int) -> Tensor:
        """The kernel that makes the output pixels (2i + a, 2j + b) from the small map: 25 taps in all four."""
        return self._laid(up.weight[:, :, TAPS[a]][:, :, :, TAPS[b]].transpose(0, 1))


class Slopes:
    """The mean squared error of G(z) to an image, its gradient in z and its curvature, without autograd.

    One for each descent: it keeps the two buffers whose zero borders the strided convolutions need.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.buffers: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """For codes z (M, k) and images x (M, C, H, W): errors (M,) and gradients (M, k), in z's own type."""
        hidden, made = self._forwards(z)
        # The last layer's four interleaved images stay apart: the image is taken apart like them instead.
        off = made - F.pixel_unshuffle(x, 2)
        pixels = x[0].numel()
        errors = off.square().flatten(1).sum(dim=1) / pixels
        back = torch.ops.aten.sigmoid_backward(off, made).mul_(2 / pixels)
        return errors, self._backwards(back, hidden)

    @torch.no_grad()
    def curvature(self, z: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Products of v (M, k) with the error's second derivatives in (z, z), (M, k), and (z, x), like x.

        Before the sigmoid s the generator is piecewise linear, u = u(z) with slope J: the error of a pixel has the
        second derivative h = 2/P (s'^2 + (s - x) s'') in u, so the products are J^T (h * Jv) and -2/P s' * Jv.
        """
        hidden, made = self._forwards(z)
        along = self._along(v, hidden)
        slope, pixels = made * (1 - made), x[0].numel()
        off = made - F.pixel_unshuffle(x, 2)
        bend = slope.square() + off * slope * (1 - 2 * made)
        on_code = self._backwards(bend * along * (2 / pixels), hidden)
        return on_code, F.pixel_shuffle(slope * along * (-2 / pixels), 2)

    def _forwards(self, z: Tensor) -> tuple[list[Tensor], Tensor]:
        """The three hidden maps and, as four interleaved images, what is made of them."""
        net = self.layout
        h0 = self._small(F.relu_(F.linear(z.to(net.dtype), net.linear, net.linear_bias)))
        h1 = self._up(0, h0, net.first)
        h2 = self._up(1, h1, 2 * net.first)
        return [h0, h1, h2], torch.sigmoid(F.conv2d(h2, net.last, net.last_bias, padding=1).to(z.dtype))

    def _along(self, v: Tensor, hidden: list[Tensor]) -> Tensor:
        """How the images before the sigmoid move with the codes: Jv, as four interleaved images."""
        net, (h0, h1, h2) = self.layout, hidden
        t = _where_on(self._small(F.linear(v.to(net.dtype), net.linear)), h0)
        t = _where_on(self._up_linear(0, t, net.first), h1)
        t = _where_on(self._up_linear(1, t, 2 * net.first), h2)
        return F.conv2d(t, net.last, padding=1).to(v.dtype)

    def _backwards(self, back: Tensor, hidden: list[Tensor]) -> Tensor:
        """The gradient in the codes, (M, k), from that in the images before the sigmoid: J^T of it."""
        net, (h0, h1, h2) = self.layout, hidden
        dtype, count = back.dtype, len(back)
        back = F.conv2d(back.to(net.dtype), net.last_down, padding=1)
        back = self._bordered(back, h2, 2 * net.first + 3)
        back = self._bordered(F.conv2d(back, net.down[1], stride=2), h1, 11)
        back = _where_on(F.conv2d(back, net.down[0], stride=2), h0)
        return (back.permute(0, 2, 3, 1).reshape(count, -1) @ net.linear).to(dtype)

    def _small(self, rows: Tensor) -> Tensor:
        """The linear layer's output as maps of 4 by 4."""
        return rows.view(len(rows), 4, 4, self.layout.channels).permute(0, 3, 1, 2)

    def _up(self, layer: int, h: Tensor, side: int) -> Tensor:
        """A transposed convolution and its ReLU, each of the four interleaved images by its own taps."""
        net, bias = self.layout, self.layout.up_bias[layer]
        out = h.new_empty(len(h), side, side, len(bias)).permute(0, 3, 1, 2)
        for a, b, kernel in net.up[layer]:
            part = out[:, :, a::2, b::2]
            whole = F.conv2d(h, kernel, bias, padding=1)
            torch.clamp_min(whole[:, :, : part.shape[2], : part.shape[3]], 0, out=part)
        return out

    def _up_linear(self, layer: int, t: Tensor, side: int) -> Tensor:
        """The same without bias and ReLU."""
        net = self.layout
        out = t.new_empty(len(t), side, side, len(net.up_bias[layer])).permute(0, 3, 1, 2)
        for a, b, kernel in net.up[layer]:
            part = out[:, :, a::2, b::2]
            part.copy_(F.conv2d(t, kernel, padding=1)[:, :, : part.shape[2], : part.shape[3]])
        return out

    def _bordered(self, grad: Tensor, h: Tensor, side: int) -> Tensor:
        """The gradient before a ReLU with output h, in a frame of zeros: one before it, the rest after."""
        count, channels, inside, _ = h.shape
        kept = self.buffers.get(channels)
        if kept is None or len(kept) < count:
            kept = h.new_zeros(count, side, side, channels).permute(0, 3, 1, 2)
            self.buffers[channels] = kept
        frame = kept[:count]
        inner = frame[:, :, 1 : 1 + inside, 1 : 1 + inside]
        torch.ops.aten.threshold_backward.grad_input(grad, h, 0, grad_input=inner)
        return frame


def _where_on(change: Tensor, h: Tensor) -> Tensor:
    """A change before a ReLU with output h, as it is after it."""
    masked: Tensor = torch.ops.aten.threshold_backward(change, h, 0)
    return masked
