"""The linear layer of the package: parameters of ``nn.Linear``, run by the faster kernel of the device."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.layers.kernels import (
    activate,
    conv2d,
    convolutions_use_onednn,
    fuses_pointwise,
    onednn_beats_blas,
    use_fast_convolutions,
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, act: str = "none") -> Tensor:
    """``F.linear``, run as a 1x1 convolution where that kernel is faster (the results agree within rounding).

    x: (..., C) -> (..., C_out), with ``kernels.activate`` on it. Rows of a contiguous ``x`` are the pixels of a
    channels-last (1, C, rows, 1) tensor, so nothing is copied on the way in or out.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    faster = onednn_beats_blas(rows, width) or (act != "none" and rows >= 64 and fuses_pointwise(x))
    if faster and use_fast_convolutions(x) and convolutions_use_onednn():
        pixels = x.reshape(1, rows, 1, width).permute(0, 3, 1, 2)  # (1, C, rows, 1)
        out = conv2d(pixels, weight[:, :, None, None], bias, act=act)
        return out.permute(0, 2, 3, 1).reshape(x.shape[:-1] + weight.shape[:1])
    return activate(F.linear(x, weight, bias), act)


@register_notrace_module
class Linear(nn.Linear):
    """``nn.Linear`` that runs through ``linear``; it also takes the part of 1x1 convolutions on (B, H, W, C) maps.

    x: (..., in_features) -> (..., out_features)
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.linear(x, self.weight, self.bias)
        return self.run(x)

    @torch.jit.unused
    def run(self, x: Tensor, act: str = "none") -> Tensor:
        """``forward``, with ``kernels.activate`` on its result."""
        return linear(x, self.weight, self.bias, act)
