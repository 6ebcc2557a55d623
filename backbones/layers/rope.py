"""Rotary position embedding (Su et al., arXiv:2104.09864), in the pairing of LLaMA's first release."""

import torch
from timm.layers import register_notrace_function
from torch import Tensor


@register_notrace_function
def rotary_table(x: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Cosine and sine of every angle p * theta^(-2i / head_dim), for the tokens of ``x`` in their order.

    x: (B, N, C) -> (N, head_dim / 2, 2), float32 on the device of ``x``. Made anew in every pass, once for all blocks:
    that costs little, and the table fits any length, type and device.
    """
    position = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    frequency = theta ** (torch.arange(0, head_dim, 2, device=x.device, dtype=torch.float32) / -head_dim)
    angle = position[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs of neighbouring elements (2i, 2i + 1) of each head by the angles of its token.

    x: (B, N, ..., d), table: (N, d / 2, 2) of ``rotary_table`` -> (B, N, ..., d). Computed in float32 (float64 if ``x``
    is) and cast back.
    """
    for _ in range(x.ndim - 3):
        table = table.unsqueeze(1)  # (N, 1, ..., d / 2, 2)
    pairs = x.to(torch.promote_types(x.dtype, table.dtype)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compilers fuse this, but not complex numbers
        a, b = pairs.unbind(-1)
        cos, sin = table.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    # One pass over memory, where real numbers would need six with strides of two.
    rotated = torch.view_as_complex(pairs) * torch.view_as_complex(table)
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)
