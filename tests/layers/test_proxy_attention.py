"""Proxy-token attention against its rule, a window at a time; the attention layer it is made of; modulations."""

import pytest
import torch
import torch.nn.functional as F

from backbones.layers import BlockModulation, MultiHeadAttention, ProxyTokenAttention, SharedModulation
from backbones.layers.functional import modulate, window_grid

CPU = torch.device("cpu")


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def slow_attention(layer, x, context, bias=0.0):
    """Head by head: (N, C), (M, C) -> (N, C)"""
    d, heads = x.shape[1] // layer.num_heads, []
    q, k, v = layer.q(x), layer.k(context), layer.v(context)
    for h in range(layer.num_heads):
        part = slice(h * d, h * d + d)
        heads.append(((q[:, part] @ k[:, part].T) / d**0.5 + bias).softmax(-1) @ v[:, part])
    return layer.proj(torch.cat(heads, dim=1))


@pytest.mark.parametrize("self_attention", [True, False])
def test_multi_head_attention(self_attention):
    torch.manual_seed(0)
    layer, x, context = MultiHeadAttention(12, 3), torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    bias = torch.randn(2, 1, 5, 5 if self_attention else 7)
    others = x if self_attention else context
    y = layer(x, None if self_attention else context, bias)
    for i in range(2):
        torch.testing.assert_close(y[i], slow_attention(layer, x[i], others[i], bias[i, 0]))
    with pytest.raises(ValueError, match="dim 12 is not a multiple of num_heads 5"):
        MultiHeadAttention(12, 5)


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("grid", [(1, 4, 8), (1, 5, 6)])
def test_proxies_mix_windows(grid, modulated):
    torch.manual_seed(0)
    layer = ProxyTokenAttention(12, 3)
    cut = window_grid(grid, (1, 4, 4), CPU)
    x = torch.randn(2, *grid, 12)
    modulation = tuple(torch.randn(3, 2, 1, 12)) if modulated else None
    y = cut.unpartition(layer(cut.partition(x), cut, (1, 4, 4), modulation))
    for i in range(2):
        shift, scale, gate = (v[i] for v in modulation) if modulated else (0, 0, 1)
        windows = [x[i, 0, r : r + 4, c : c + 4] for r in range(0, grid[1], 4) for c in range(0, grid[2], 4)]
        proxies = torch.stack([w.reshape(-1, 12).mean(0) for w in windows])
        mixed = norm(proxies) * (1 + scale) + shift
        proxies = proxies + gate * slow_attention(layer.attn, mixed, mixed)
        tokens = x[i].reshape(-1, 12)
        expected = layer.out(slow_attention(layer.cross_attn, norm(tokens), norm(proxies)))
        torch.testing.assert_close(y[i].reshape(-1, 12), expected)


def test_block_modulation_starts_closed():
    layer = BlockModulation(4, 3)
    layer.reset_parameters()
    cond = torch.randn(2, 4)
    assert torch.equal(layer(cond), torch.zeros(2, 3, 4))
    torch.nn.init.normal_(layer.fc.weight)
    expected = (F.silu(cond) @ layer.fc.weight.T).view(2, 3, 4)
    torch.testing.assert_close(layer(cond), expected)


def test_shared_modulation_adds_its_table_to_the_first_vectors():
    layer, shared = SharedModulation(64, 2), torch.randn(5, 6, 64)
    layer.reset_parameters()
    assert 0.05 < layer.table.std() < 0.25  # 1 / 8
    torch.testing.assert_close(layer(shared), layer.table + shared[:, :2])


def test_modulate():
    x, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
