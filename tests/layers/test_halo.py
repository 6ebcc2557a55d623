"""Halo attention against loops over pixels, by both ways it runs; sizes, strides, gradients, what it refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels import halo as halo_file
from backbones.kernels import set_fast_kernels
from backbones.layers import HaloAttention


def slow_halo_attention(m: HaloAttention, x: Tensor) -> Tensor:
    """One query, one head, one key at a time. x: (H, W, C), sides multiples of a block -> (H', W', C_v)"""
    b, h, s = m.block_size, m.halo_size, m.query_stride
    side, ws, d, e = b + 2 * h, b // s, m.head_dim, m.head_dim_v
    H, W, _ = x.shape
    out = torch.zeros(H // s, W // s, m.num_heads * e)
    for y in range(H // s):
        for x_ in range(W // s):
            q = (x[y * s, x_ * s] @ m.q.weight.T).view(m.num_heads, d)
            top, left = y // ws * b - h, x_ // ws * b - h
            for head in range(m.num_heads):
                logits, values = [], []
                for ky in range(side):
                    for kx in range(side):
                        row, column = top + ky, left + kx
                        kv = torch.zeros(d + e)  # outside the map: zero, and not masked
                        if 0 <= row < H and 0 <= column < W:
                            kv = (x[row, column] @ m.kv.weight.T).view(m.num_heads, d + e)[head]
                        r = m.height_rel[ky - y % ws + side - 1] + m.width_rel[kx - x_ % ws + side - 1]
                        logits.append(q[head] @ kv[:d] / d**0.5 + q[head] @ r)
                        values.append(kv[d:])
                out[y, x_, head * e : (head + 1) * e] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return out


def layer(**kwargs) -> HaloAttention:
    torch.manual_seed(0)
    m = HaloAttention(**{"dim": 8, "num_heads": 2, "block_size": 4, "halo_size": 1, **kwargs})
    return m


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def kernels(request: pytest.FixtureRequest):
    set_fast_kernels(request.param)
    yield request.param
    set_fast_kernels(True)


OPTIONS = [
    {},
    {"stride": 2},
    {"dim_v": 12},
    {"num_heads": 4, "block_size": 2, "halo_size": 2},  # neighbourhoods overlap those of the blocks after the next
    {"block_size": 3, "halo_size": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_loops(options: dict, kernels: bool) -> None:
    m = layer(**options)
    size = 2 * m.block_size
    x = torch.randn(2, size, size + m.block_size, 8)
    with torch.no_grad():
        expected = torch.stack([slow_halo_attention(m, image) for image in x])
        torch.testing.assert_close(m(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 9), (11, 6)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_like_the_outside_of_the_map(size: tuple[int, int], stride: int, kernels: bool) -> None:
    m = layer(stride=stride)
    x = torch.randn(1, *size, 8)
    padded = F.pad(x, (0, 0, 0, -size[1] % 4, 0, -size[0] % 4))
    with torch.no_grad():
        expected = slow_halo_attention(m, padded[0])[: -(-size[0] // stride), : -(-size[1] // stride)]
        torch.testing.assert_close(m(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_odd_blocks_pool_instead_of_striding(kernels: bool) -> None:
    m, full = layer(block_size=3, stride=2), layer(block_size=3)
    x = torch.randn(2, 6, 9, 8)
    with torch.no_grad():
        y = F.avg_pool2d(full(x).permute(0, 3, 1, 2)[..., :8], 2).permute(0, 2, 3, 1)
        out = m(x)
    assert out.shape == (2, 3, 5, 8)  # an odd last column is averaged with itself
    torch.testing.assert_close(out[:, :, :4], y)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunk", [1, 600, 2**20])
def test_fast_equals_plain_with_gradients(options: dict, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into single blocks, rows of blocks, whole images or the whole batch."""
    monkeypatch.setattr(halo_file, "_CHUNK", chunk * layer(**options).num_heads)
    results = []
    for fast in (True, False):
        set_fast_kernels(fast)
        m = layer(**options)
        torch.manual_seed(1)
        x = torch.randn(3, 10, 13, 8, requires_grad=True)
        y = m(x)
        y.backward(torch.randn_like(y))
        results.append([y.detach(), x.grad, *(p.grad for p in m.parameters())])
    set_fast_kernels(True)
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    m = layer(dim=4, num_heads=2, block_size=2).double()
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    q, kv, tables = m.q(x), m.kv(x), m.relative_rows()
    inputs = [t.detach().requires_grad_() for t in (q, kv, *tables)]
    assert torch.autograd.gradcheck(lambda *t: halo_file._BlockedAttention.apply(*t, 2, 2, 1), inputs)


def test_large_logits_do_not_overflow(kernels: bool) -> None:
    m = layer()
    with torch.no_grad():
        y = m(1e4 * torch.randn(1, 8, 8, 8))
    assert y.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_follows_the_dtype_of_the_module(dtype: torch.dtype) -> None:
    m = layer()
    x = torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        y = copy.deepcopy(m).to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), m(x), atol=0.05, rtol=0.05)


def test_gradients_of_gradients(kernels: bool) -> None:
    m, x = layer(), torch.randn(1, 8, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(gradient.square().sum(), x)
    set_fast_kernels(False)
    (gradient,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(twice, torch.autograd.grad(gradient.square().sum(), x)[0], atol=1e-3, rtol=1e-3)


def test_constructor_initialises() -> None:
    m = HaloAttention(16, 2)
    assert all(p.isfinite().all() and 0 < p.std() < 1 for p in m.parameters())


def test_raises() -> None:
    with pytest.raises(ValueError, match="multiples of num_heads 3"):
        HaloAttention(8, 3)
    with pytest.raises(ValueError, match="multiples of num_heads 4"):
        HaloAttention(8, 4, dim_v=10)
    with pytest.raises(ValueError, match="stride is 1 or 2, got 3"):
        HaloAttention(8, 2, stride=3)
