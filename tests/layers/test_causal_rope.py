"""Causal attention with rotary positions against a slow, obvious reference."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from backbones.layers import CausalRopeAttention
from backbones.layers.functional import rotary_table, rotate


def slow_rotate(vector: list[float], position: int) -> list[float]:
    """Neighbouring elements as complex numbers, turned by position * 10000^(-2i / d)."""
    out: list[float] = []
    for i in range(0, len(vector), 2):
        z = complex(*vector[i : i + 2]) * cmath.exp(1j * position * 10000 ** (-i / len(vector)))
        out += [z.real, z.imag]
    return out


def slow_attention(layer: CausalRopeAttention, x: Tensor, rate: float) -> Tensor:
    """Token by token and head by head, for one image (N, dim)."""
    (N, dim), d = x.shape, x.shape[1] // layer.num_heads
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(dim, dim=-1)
    y = torch.zeros(N, dim)
    for head in range(layer.num_heads):
        part = slice(head * d, (head + 1) * d)
        rotated_q = torch.tensor([slow_rotate(q[i, part].tolist(), i) for i in range(N)])
        rotated_k = torch.tensor([slow_rotate(k[i, part].tolist(), i) for i in range(N)])
        for i in range(N):
            weights = [math.exp(rotated_q[i] @ rotated_k[j] / math.sqrt(d)) for j in range(N)]
            for j in range(N):
                y[i, part] += weights[j] / sum(weights) * (1.0 if j <= i else rate) * v[j, part]
    return y @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_equals_the_slow_reference(rate: float) -> None:
    torch.manual_seed(0)
    layer = CausalRopeAttention(24, num_heads=2)
    layer.soft_mask_rate = rate
    x = torch.randn(2, 11, 24)
    expected = torch.stack([slow_attention(layer, image, rate) for image in x])
    torch.testing.assert_close(layer(x, rotary_table(x, 12)), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_later_tokens_act_through_the_denominator_only() -> None:
    """The output of the first token is its own value, scaled by the share that its own key has of the softmax."""
    torch.manual_seed(0)
    layer = CausalRopeAttention(8, num_heads=1)
    x = torch.randn(1, 5, 8)
    rope = rotary_table(x, 8)
    changed = x.clone()
    changed[:, 4] += 1.0
    first, other = (layer(tokens, rope)[0, 0] - layer.proj.bias for tokens in (x, changed))
    assert not torch.allclose(first, other)
    ratio = first / other
    torch.testing.assert_close(ratio, ratio[:1].expand(8), atol=1e-3, rtol=1e-3)


def test_gradients_with_and_without_a_mask() -> None:
    torch.manual_seed(0)
    layer = CausalRopeAttention(8, num_heads=2).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    rope = rotary_table(x, 4).double()
    for rate in (0.0, 0.5, 1.0):
        layer.soft_mask_rate = rate
        assert torch.autograd.gradcheck(lambda x: layer(x, rope), (x,))


@pytest.mark.parametrize("shape", [(2, 7, 12), (2, 7, 3, 12), (2, 7, 2, 3, 12)])
def test_rotation_of_any_number_of_heads(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y = rotate(x, rotary_table(x.flatten(2), 12))
    assert y.shape == x.shape
    for index in (0, 3, 6):
        flat_x, flat_y = x[:, index].reshape(-1, 12), y[:, index].reshape(-1, 12)
        for vector, rotated in zip(flat_x, flat_y, strict=True):
            torch.testing.assert_close(rotated, torch.tensor(slow_rotate(vector.tolist(), index)))


def test_compiled_rotation_equals_the_eager_one() -> None:
    x = torch.randn(2, 7, 3, 12)
    compiled = torch.compile(rotate, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, rotary_table(x.flatten(2), 12)), rotate(x, rotary_table(x.flatten(2), 12)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rotation_keeps_the_type(dtype: torch.dtype) -> None:
    x = torch.randn(2, 300, 2, 64).to(dtype)
    table = rotary_table(x.flatten(2), 64)
    y = rotate(x, table)
    assert table.dtype == torch.float32 and y.dtype == dtype
    # Positions beyond 256 are no bfloat16 numbers: the angles must not be rounded, only the result.
    expected = rotate(x.double(), table).to(dtype)
    torch.testing.assert_close(y, expected)


def test_raises() -> None:
    with pytest.raises(ValueError, match="dim 24 is not a multiple of 2 \\* num_heads = 16"):
        CausalRopeAttention(24, num_heads=8)
