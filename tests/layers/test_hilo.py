"""HiLo attention against loops over windows and pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers import HiLoAttention


def heads_attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """One head at a time. q: (B, N, nh * d), k and v: (B, M, nh * d)"""
    out = []
    for qh, kh, vh in zip(q.chunk(num_heads, -1), k.chunk(num_heads, -1), v.chunk(num_heads, -1), strict=True):
        out.append((qh @ kh.mT / qh.shape[-1] ** 0.5).softmax(-1) @ vh)
    return torch.cat(out, -1)


def obvious(attn: HiLoAttention, x: Tensor) -> Tensor:
    B, H, W, C = x.shape
    ws = attn.window_size
    padded = F.pad(x, (0, 0, 0, -W % ws, 0, -H % ws))
    parts = []
    if attn.hi_heads:
        q, k, v = attn.h_qkv(padded).chunk(3, -1)
        hi = torch.zeros_like(q)
        for i in range(0, padded.shape[1], ws):
            for j in range(0, padded.shape[2], ws):
                window = [t[:, i : i + ws, j : j + ws].flatten(1, 2) for t in (q, k, v)]
                hi[:, i : i + ws, j : j + ws] = heads_attend(*window, attn.hi_heads).unflatten(1, (ws, ws))
        parts.append(attn.h_proj(hi))
    if attn.lo_heads:
        pooled = padded.unflatten(1, (-1, ws)).unflatten(3, (-1, ws)).mean((2, 4)).flatten(1, 2)
        k, v = attn.l_kv(pooled).chunk(2, -1)
        lo = heads_attend(attn.l_q(padded.flatten(1, 2)), k, v, attn.lo_heads)
        parts.append(attn.l_proj(lo).view(*padded.shape[:3], -1))
    return torch.cat(parts, -1)[:, :H, :W]


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
@pytest.mark.parametrize("window_size", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_equals_loops(alpha: float, window_size: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attn = HiLoAttention(32, 4, window_size, alpha).double()
    x = torch.randn(2, *size, 32, dtype=torch.float64)
    torch.testing.assert_close(attn(x), obvious(attn, x))


@pytest.mark.parametrize(
    ("window_size", "alpha", "lo_heads"), [(2, 0.9, 10), (2, 0.5, 6), (2, 0.0, 0), (2, 1.0, 12), (1, 0.0, 12)]
)
def test_alpha_divides_the_heads(window_size: int, alpha: float, lo_heads: int) -> None:
    attn = HiLoAttention(48, 12, window_size, alpha)
    assert (attn.lo_heads, attn.hi_heads) == (lo_heads, 12 - lo_heads)


def test_gradients_match_numerical_ones() -> None:
    torch.manual_seed(0)
    attn = HiLoAttention(8, 2, 2, 0.5).double()
    assert torch.autograd.gradcheck(attn, torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="dim 32 is not a multiple of num_heads 5"):
        HiLoAttention(32, 5)
    with pytest.raises(ValueError, match="from 0 to 1; got 1.5"):
        HiLoAttention(32, 4, alpha=1.5)
