"""Attention inside windows against a loop over them."""

import pytest
import torch
from torch import Tensor

from backbones.layers import WindowAttention


def obvious(attn: WindowAttention, x: Tensor) -> Tensor:
    """One window, one head at a time; the map is padded pixel by pixel."""
    _, H, W, C = x.shape
    ws, d = attn.window_size, C // attn.num_heads
    padded = x.new_zeros(x.shape[0], -(-H // ws) * ws, -(-W // ws) * ws, C)
    padded[:, :H, :W] = x
    out = torch.zeros_like(padded)
    for i in range(0, padded.shape[1], ws):
        for j in range(0, padded.shape[2], ws):
            window = padded[:, i : i + ws, j : j + ws].flatten(1, 2)
            q, k, v = (window @ attn.qkv.weight.T + attn.qkv.bias).split(C, dim=-1)
            for h in range(0, C, d):
                weights = (q[..., h : h + d] @ k[..., h : h + d].mT / d**0.5).softmax(-1)
                out[:, i : i + ws, j : j + ws, h : h + d] = (weights @ v[..., h : h + d]).unflatten(1, (ws, ws))
    return (out @ attn.proj.weight.T + attn.proj.bias)[:, :H, :W]


@pytest.mark.parametrize("size", [(14, 14), (7, 21), (9, 16), (3, 5), (1, 1)])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_equals_a_loop_over_windows(size: tuple[int, int], num_heads: int) -> None:
    torch.manual_seed(0)
    attn = WindowAttention(32, num_heads, 7).double()
    torch.nn.init.normal_(attn.qkv.bias)  # with a bias of 0 the padding would not show
    x = torch.randn(2, *size, 32, dtype=torch.float64)
    torch.testing.assert_close(attn(x), obvious(attn, x))


def test_window_size_bounds_what_a_pixel_sees() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 8, 16)
    changed = x.clone()
    changed[:, 5, 6] += 1
    for window_size in (2, 4, 8):
        attn = WindowAttention(16, 2, window_size)
        seen = (attn(x) != attn(changed)).any(-1)[0]
        top, left = 5 // window_size * window_size, 6 // window_size * window_size
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[top : top + window_size, left : left + window_size] = True
        assert torch.equal(seen, expected)


def test_gradients_match_numerical_ones() -> None:
    torch.manual_seed(0)
    attn = WindowAttention(8, 2, 3).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attn, x)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="dim 32 is not a multiple of num_heads 5"):
        WindowAttention(32, 5, 7)
    with pytest.raises(ValueError, match="window_size .* got 0"):
        WindowAttention(32, 4, 0)
