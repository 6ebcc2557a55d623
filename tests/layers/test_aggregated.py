"""Aggregated attention and its parts against slow references."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers import AggregatedAttention, GlobalCosineAttention, LogPositionBias
from backbones.layers.aggregated import neighbor_mix
from backbones.layers.log_pos_bias import relative_positions


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter far from where it starts."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return module


def slow(attn: AggregatedAttention, x: Tensor) -> Tensor:
    """One image, one head and one query at a time; x: (H, W, C) -> (H, W, C)"""
    H, W, C = x.shape
    h, w, d = max(1, H // attn.sr_ratio), max(1, W // attn.sr_ratio), attn.head_dim
    pooled = F.adaptive_avg_pool2d(F.gelu(attn.sr(x)).permute(2, 0, 1), (h, w)).permute(1, 2, 0).flatten(0, 1)
    pooled_k, pooled_v = attn.kv(attn.norm(pooled)).chunk(2, -1)
    k, v = attn.kv(x).chunk(2, -1)
    q, bias, y = attn.q(x), attn.pos_bias(H, W, h, w, x), torch.zeros(H, W, C)
    for head in range(attn.num_heads):
        c = slice(head * d, (head + 1) * d)
        for i in range(H):
            for j in range(W):
                near = [
                    (t, i + t // 3 - 1, j + t % 3 - 1)
                    for t in range(9)
                    if 0 <= i + t // 3 - 1 < H and 0 <= j + t % 3 - 1 < W
                ]
                unit = F.normalize(q[i, j, c], dim=0)
                query = (unit + attn.query_embedding[head, 0]) * F.softplus(attn.temperature[head, 0, 0])
                query = query * math.log(len(near) + h * w)
                keys = torch.stack([k[a, b, c] for _, a, b in near] + list(pooled_k[:, c]))
                values = torch.stack([v[a, b, c] for _, a, b in near] + list(pooled_v[:, c]))
                added = torch.cat([attn.rpb[head, [t for t, *_ in near]], bias[head, i * W + j]])
                weights = (F.normalize(keys, dim=1) @ query + added).softmax(0)
                own = unit @ attn.learnable_tokens[head] + attn.learnable_bias[head, 0]
                weights = weights + F.pad(own[[t for t, *_ in near]], (0, h * w))
                y[i, j, c] = weights @ values
    return attn.proj(y)


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 3)])
def test_equals_loops(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attn = drawn(AggregatedAttention(8, 2, sr_ratio=2, pretrain_side=7))
    x = torch.randn(2, *size, 8)
    with torch.no_grad():
        expected = torch.stack([slow(attn, image) for image in x])
        torch.testing.assert_close(attn(x), expected, atol=1e-4, rtol=1e-4)


def test_global_form_equals_its_formula() -> None:
    torch.manual_seed(0)
    attn, x = drawn(GlobalCosineAttention(8, 2, pretrain_side=7)), torch.randn(2, 3, 5, 8)
    q, k, v = attn.qkv(x).view(2, 15, 3, 2, 4).permute(2, 0, 3, 1, 4)
    q = (F.normalize(q, dim=-1) + attn.query_embedding) * F.softplus(attn.temperature) * math.log(15)
    weights = (q @ F.normalize(k, dim=-1).mT + attn.pos_bias(3, 5, 3, 5, x)).softmax(-1)
    torch.testing.assert_close(attn(x), attn.proj((weights @ v).transpose(1, 2).reshape(2, 3, 5, 8)))


def test_gradients_of_the_neighbor_mix() -> None:
    torch.manual_seed(0)
    weights = torch.randn(1, 3, 4, 2, 9, dtype=torch.double, requires_grad=True)
    v = torch.randn(1, 3, 4, 2, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(neighbor_mix, (weights, v))


@pytest.mark.parametrize(("size", "bins"), [(8, 2), (9, 3), (7, 3), (13, 5), (4, 4), (1, 1)])
def test_distances_to_the_centres_of_bins(size: int, bins: int) -> None:
    distances, index = relative_positions(size, bins, torch.device("cpu"))
    for j in range(bins):
        members = range(j * size // bins, math.ceil((j + 1) * size / bins))
        centre = sum(members) / len(members)
        torch.testing.assert_close(distances[index[:, j]], torch.arange(size) - centre)


def test_position_bias_of_a_square_is_the_same_in_both_modes() -> None:
    torch.manual_seed(0)
    made = LogPositionBias(2, 7)
    resized = LogPositionBias(2, 7, map_size=8, pooled_size=4)
    resized.load_state_dict(made.state_dict())
    like = torch.zeros(())
    torch.testing.assert_close(resized(8, 8, 4, 4, like), made(8, 8, 4, 4, like))
    assert not torch.allclose(resized(8, 12, 4, 6, like), made(8, 12, 4, 6, like))


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="dim 10 is not a multiple of num_heads 3"):
        AggregatedAttention(10, 3, 2, 7)
