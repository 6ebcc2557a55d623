"""The linear layer of the package: parameters of ``nn.Linear``, run by the faster kernel of the device."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.layers.kernels import (
    conv2d,
    convolutions_use_onednn,
    fuses_pointwise,
    onednn_beats_blas,
    use_fast_convolutions,
    use_fast_kernels,
)

# Below this many rows a convolution spends more time on re-laying its weights than it gains.
_MIN_ROWS = 64


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, approximate: str = "none"
) -> Tensor:
    """``F.linear``, run as a 1x1 convolution where that kernel is faster (the results agree within rounding).

    x: (..., C) -> (..., C_out), with a GELU on it if ``gelu``, ``approximate`` as in ``F.gelu``. Rows of a contiguous
    ``x`` are the pixels of a channels-last (1, C, rows, 1) tensor, so nothing is copied on the way in or out.
    """
    if (
        use_fast_convolutions(x)
        and onednn_beats_blas()
        and convolutions_use_onednn()
        and x.numel() >= _MIN_ROWS * x.shape[-1]
    ):
        pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, rows, 1)
        out = conv2d(pixels, weight[:, :, None, None], bias, gelu=gelu, approximate=approximate)
        return out.permute(0, 2, 3, 1).reshape(x.shape[:-1] + weight.shape[:1])
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate=approximate) if gelu else out


def chain(x: Tensor, first: nn.Linear, second: nn.Linear, gate: Tensor | None = None) -> Tensor:
    """``second(gate * first(x))``; on a CPU in float32, without gradients, as one product where rows enough pay for it.

    x: (B, N, C), gate: (B, C_mid) or None -> (B, N, C_out). Making the one matrix costs as much as C_out rows of x do.
    """
    if not (fuses_pointwise(x) and use_fast_kernels(x)) or x.shape[1] < 2 * second.out_features:
        y = first(x)
        return second(y if gate is None else y * gate[:, None])
    if gate is None:
        return linear(x, second.weight @ first.weight, second.weight @ first.bias + second.bias)
    weights = [second.weight * g for g in gate]
    return torch.stack(
        [linear(y, w @ first.weight, w @ first.bias + second.bias) for y, w in zip(x, weights, strict=True)]
    )


@register_notrace_module
class Linear(nn.Linear):
    """``nn.Linear`` that runs through ``linear``; it also takes the part of 1x1 convolutions on (B, H, W, C) maps.

    x: (..., in_features) -> (..., out_features), with a GELU on it if ``gelu``, ``approximate`` as in ``F.gelu``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        gelu: bool = False,
        approximate: str = "none",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.gelu = gelu
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            out = F.linear(x, self.weight, self.bias)
            return F.gelu(out, approximate=self.approximate) if self.gelu else out
        return linear(x, self.weight, self.bias, self.gelu, self.approximate)
