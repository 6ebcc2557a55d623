"""Depthwise convolution on (B, H, W, C) maps."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.layers.kernels import activate, conv2d, use_fast_convolutions
from backbones.layers.layout import to_nchw, to_nhwc


def interleave(x: Tensor, dilation: int) -> Tensor:
    """Gather the ``dilation`` ** 2 interleaved sub-grids of a map into the batch (copies).

    x: (B, H, W, C) -> (dilation ** 2 * B, ceil(H / dilation), ceil(W / dilation), C), zero-padded at the bottom and
    right.
    """
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % dilation, 0, -H % dilation))
    h, w = x.shape[1] // dilation, x.shape[2] // dilation
    x = x.view(B, h, dilation, w, dilation, C).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(dilation * dilation * B, h, w, C)


def deinterleave(x: Tensor, dilation: int, H: int, W: int) -> Tensor:
    """Inverse of ``interleave`` for a map of H x W: scatter the sub-grids back and crop (copies)."""
    B, (h, w, C) = x.shape[0] // dilation**2, x.shape[1:]
    x = x.view(dilation, dilation, B, h, w, C).permute(2, 3, 0, 4, 1, 5)
    return x.reshape(B, h * dilation, w * dilation, C)[:, :H, :W]


@register_notrace_module
class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution of a (B, H, W, C) map, zero-padded by (k - 1) / 2 * dilation on each side.

    x: (B, H, W, dim) -> (B, ceil(H / stride), ceil(W / stride), dim)

    A dilated convolution visits each interleaved sub-grid separately, so it equals an undilated one over the sub-grids
    in the batch. CPU kernels are several times faster at the latter.

    Args:
        dim: Channels.
        kernel_size: Odd side of the kernel, in pixels of the (sub-)grid.
        stride: Pixels between outputs.
        dilation: Pixels between taps.
        shortcut: Add the input to the output; needs stride 1.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        shortcut: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        padding = kernel_size // 2 * dilation
        super().__init__(dim, dim, kernel_size, stride, padding, dilation, groups=dim, device=device, dtype=dtype)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = to_nhwc(self._conv_forward(to_nchw(x), self.weight, self.bias))
            return x + y if self.shortcut else y
        return self.run(x)

    @torch.jit.unused
    def run(self, x: Tensor, act: str = "none") -> Tensor:
        """``forward``, with ``kernels.activate`` on its result."""
        return self.convolve(x, self.weight, self.bias, act)

    @torch.jit.unused
    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, act: str = "none") -> Tensor:
        """``run`` with parameters that are given."""
        dilation, half = self.dilation[0], self.kernel_size[0] // 2
        if not use_fast_convolutions(x) or (dilation > 1 and self.stride[0] > 1):
            y = to_nhwc(self._conv_forward(to_nchw(x), weight, bias))
            return activate(x + y if self.shortcut else y, act)
        if self.shortcut:  # x + conv(x) is a convolution too, which saves a pass over the map
            weight = weight + F.pad(weight.new_ones(1, 1, 1, 1), (half,) * 4)
        options = (half, half), self.groups, act
        if dilation > 1:
            _, H, W, _ = x.shape
            y = conv2d(to_nchw(interleave(x, dilation)), weight, bias, (1, 1), *options)
            return deinterleave(to_nhwc(y), dilation, H, W)
        return to_nhwc(conv2d(to_nchw(x), weight, bias, self.stride, *options))
