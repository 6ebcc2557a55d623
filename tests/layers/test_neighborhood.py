"""Neighbourhood attention against loops over pixels, by both ways it runs; sizes, gradients, programs, extra keys."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from backbones.kernels import set_fast_kernels
from backbones.kernels import tiles as tiles_file
from backbones.layers import HeadGate, NeighborhoodAttention
from backbones.layers.functional import neighborhood_tiles, tile_attention


def window(i: int, length: int, k: int, d: int) -> list[tuple[int, int]]:
    """Pixels that pixel ``i`` of an axis attends to, and where their bias is."""
    p, r = divmod(i, d)
    start = min(max(p - k // 2, 0), -(-(length - r) // d) - k)
    return [((start + j) * d + r, start + j - p + k - 1) for j in range(k)]


def slow_attention(m: NeighborhoodAttention, x: Tensor) -> Tensor:
    """One query at a time. x: (H, W, C) -> (H, W, C)"""
    (height, width, _), k, d = x.shape, m.kernel_size, m.dilation
    gates = 1 if m.gate is None else m.gate(x)[0].unsqueeze(-1)
    x = F.pad(x, (0, 0, 0, max(0, k * d - width), 0, max(0, k * d - height)))
    q, key, v = m.qkv(x).unflatten(2, (3, m.num_heads, -1)).unbind(2)
    out = torch.zeros(height, width, *q.shape[2:], dtype=x.dtype)
    for y in range(height):
        for z in range(width):
            near = [(a, b, i, j) for a, i in window(y, len(x), k, d) for b, j in window(z, x.shape[1], k, d)]
            logits = [(q[y, z] * key[a, b]).sum(1) * q.shape[3] ** -0.5 for a, b, _, _ in near]
            if m.rpb is not None:
                logits = [logit + m.rpb[:, i, j] for logit, (_, _, i, j) in zip(logits, near, strict=True)]
            weights = torch.stack(logits).softmax(0)[..., None]
            out[y, z] = (weights * torch.stack([v[a, b] for a, b, _, _ in near])).sum(0)
    return m.proj((gates * out).flatten(2))


def layer(*args, **kwargs) -> NeighborhoodAttention:
    torch.manual_seed(0)
    m = NeighborhoodAttention(8, 2, *args, **kwargs)
    if m.rpb is not None:
        torch.nn.init.normal_(m.rpb)
    return m


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def kernels(request: pytest.FixtureRequest):
    set_fast_kernels(request.param)
    yield request.param
    set_fast_kernels(True)


@pytest.mark.parametrize(
    ("size", "kernel_size", "dilation"),
    [
        ((7, 7), 7, 1),
        ((17, 26), 7, 1),
        ((9, 13), 3, 2),  # the residue grids differ by a row and by a column
        ((16, 23), 7, 2),
        ((21, 19), 5, 3),
        ((4, 3), 3, 1),
        ((5, 6), 3, 3),  # smaller than 9: padded
        ((10, 3), 5, 2),  # padded along one axis
        ((2, 3), 7, 1),
        ((6, 5), 1, 1),
    ],
)
@pytest.mark.parametrize("rel_pos_bias", [True, False])
def test_equals_loops(
    size: tuple[int, int], kernel_size: int, dilation: int, rel_pos_bias: bool, kernels: bool
) -> None:
    m = layer(kernel_size, dilation, rel_pos_bias)
    x = torch.randn(2, *size, 8)
    with torch.no_grad():
        expected = torch.stack([slow_attention(m, image) for image in x])
        torch.testing.assert_close(m(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(9, 7), (4, 3)])  # the second is padded, and its padding has no gates
def test_gates_multiply_the_heads(size: tuple[int, int], kernels: bool) -> None:
    m = layer(3, 2, gate=HeadGate(8, 2, shared=1, top_k=1))
    x = torch.randn(2, *size, 8)
    with torch.no_grad():
        expected = torch.stack([slow_attention(m, image) for image in x])
        torch.testing.assert_close(m(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 10**4])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("rel_pos_bias", [True, False])
def test_fast_equals_plain_with_gradients(
    chunk: int, dilation: int, rel_pos_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles_file, "_CHUNK", chunk)
    results = []
    for fast in (True, False):
        set_fast_kernels(fast)
        m = layer(3, dilation, rel_pos_bias)
        x = torch.randn(3, 11, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = m(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in m.parameters())])
    set_fast_kernels(True)
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, *extra: Tensor, cut: bool = False) -> Tensor:
    tiles = neighborhood_tiles(q.shape[1], q.shape[2], 3, cut=cut)
    return tile_attention(q, k, v, 2, tiles, table, scale=0.7, extra=extra or None)


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_file, "use_fast_path", lambda *x: True)
    torch.manual_seed(0)
    sizes = [(1, 5, 4, 4)] * 3 + [(2, 3, 3), (1, 2, 4), (1, 2, 4), (2, 20, 2)]
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    assert torch.autograd.gradcheck(lambda *t: attend(*t, cut=True), inputs)
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
        assert torch.autograd.gradgradcheck(lambda *t: attend(*t, cut=True), inputs)


@pytest.mark.parametrize("size", [(9, 16), (2, 5), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_neighborhoods_cut_at_the_border_and_extra_keys(size: tuple[int, int], with_bias: bool, kernels: bool) -> None:
    """Against a mask of all pairs of pixels."""
    torch.manual_seed(0)
    (H, W), P = size, 3
    q, k, v = torch.randn(3, 2, H, W, 8)
    extra_k, extra_v = torch.randn(2, 2, P, 8)
    table, extra_bias = torch.randn(2, 3, 3), torch.randn(2, H * W, P)
    y, x = torch.arange(H * W) // W, torch.arange(H * W) % W
    dy, dx = y - y[:, None], x - x[:, None]
    bias = table[:, dy.clamp(-1, 1) + 1, dx.clamp(-1, 1) + 1]
    bias = bias.masked_fill((dy.abs() > 1) | (dx.abs() > 1), float("-inf"))
    bias = torch.cat([bias, extra_bias if with_bias else torch.zeros(2, H * W, P)], dim=2)
    heads = [
        t.unflatten(2, (2, 4)).transpose(1, 2)
        for t in (
            q.flatten(1, 2),
            torch.cat([k.flatten(1, 2), extra_k], dim=1),
            torch.cat([v.flatten(1, 2), extra_v], dim=1),
        )
    ]
    expected = F.scaled_dot_product_attention(*heads, attn_mask=bias, scale=0.7).transpose(1, 2).reshape_as(q)
    tiles = neighborhood_tiles(H, W, 3, cut=True)
    extra = (extra_k, extra_v, extra_bias if with_bias else None)
    found = tile_attention(q, k, v, 2, tiles, table, scale=0.7, extra=extra)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(56, 56), (100, 33), (300, 7)])
@pytest.mark.parametrize("dilation", [1, 4])
def test_no_tile_sees_much_more_than_its_neighborhood(size: tuple[int, int], dilation: int) -> None:
    """So logits grow linearly with pixels."""
    H, W = (max(side, 7 * dilation) for side in size)
    tiles = neighborhood_tiles(H, W, 7, dilation)
    queries, keys = len(tiles.queries), tiles.keys.shape[1]
    assert queries * keys <= 8 * 49 * H * W
    assert tiles.relative.numel() <= 16 * 14**4  # tables of kinds of tiles, not of tiles


def test_large_logits_do_not_overflow(kernels: bool) -> None:
    m = layer(3)
    with torch.no_grad():
        assert m(1e4 * torch.randn(1, 8, 8, 8)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_follows_the_dtype_of_the_module(dtype: torch.dtype) -> None:
    m = layer(3, 2)
    x = torch.randn(1, 8, 9, 8)
    with torch.no_grad():
        y = copy.deepcopy(m).to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), m(x), atol=0.05, rtol=0.05)


def test_runs_under_autocast_and_on_no_image(kernels: bool) -> None:
    m = layer(3)
    x = torch.randn(1, 8, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = m(x)
    torch.testing.assert_close(y.float(), m(x), atol=0.05, rtol=0.05)
    y = m(torch.zeros(0, 5, 6, 8, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 5, 6, 8)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (3, 2), (7, 1)])
def test_one_program_serves_all_sizes(kernel_size: int, dilation: int) -> None:
    m = layer(kernel_size, dilation).eval()
    sides = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    program = torch.export.export(m, (torch.randn(2, 24, 20, 8),), dynamic_shapes=(sides,), strict=False).module()
    torch._dynamo.reset()
    compiled = torch.compile(m, dynamic=True, fullgraph=True, backend="eager")
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for size in ((3, 9, 31), (2, 40, 17), (4, 2, 30), (2, 7, 7)):
            x = torch.randn(*size, 8)
            torch.testing.assert_close(program(x), m(x), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(compiled(x), m(x), atol=1e-5, rtol=1e-5)


def test_raises() -> None:
    with pytest.raises(ValueError, match="dim 8 is not a multiple of num_heads 3"):
        NeighborhoodAttention(8, 3)
    with pytest.raises(ValueError, match="odd number of pixels, got 4"):
        NeighborhoodAttention(8, 2, 4)
    with pytest.raises(ValueError, match="from 1 up, got 0"):
        NeighborhoodAttention(8, 2, dilation=0)
    with pytest.raises(ValueError, match="6 x 20 pixels is too small, its sides must be at least 14"):
        neighborhood_tiles(6, 20, 7, 2)


def test_meta_tensors_have_the_operators_of_the_definition() -> None:
    """What is counted there is what a neighbourhood has: a tile is a pixel, with its own keys."""
    m = layer(3, 2).to("meta")
    assert m(torch.empty(2, 9, 11, 8, device="meta")).shape == (2, 9, 11, 8)
    tiles = neighborhood_tiles(9, 11, 3, 2, device=torch.device("meta"))
    assert tiles.keys.shape[1] == 9 and len(tiles.queries) == tiles.keys.shape[0]
