"""Super token attention against loops over cells and their neighbours."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers import SuperTokenAttention
from backbones.layers.super_token import gather_neighbours, sum_from_neighbours

SIZES = [(8, 12), (9, 14), (4, 4), (3, 5), (1, 9)]


def obvious_attention(attn: SuperTokenAttention, tokens: Tensor) -> Tensor:
    """One head at a time, whose q, k and v stand together. tokens: (B, N, C) -> (B, N, C)"""
    outs = []
    for head in (tokens @ attn.qkv.weight.T + attn.qkv.bias).chunk(attn.num_heads, dim=-1):
        q, k, v = head.chunk(3, dim=-1)
        outs.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
    return torch.cat(outs, dim=-1) @ attn.proj.weight.T + attn.proj.bias


def obvious(attn: SuperTokenAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """One pixel at a time. x: (1, H, W, C) -> (1, H, W, C), association (1, H, W, 9)"""
    _, H, W, C = x.shape
    side = attn.cell_size
    h, w = -(-H // side), -(-W // side)
    padded = x.new_zeros(h * side, w * side, C)
    padded[:H, :W] = x[0]
    means = padded.view(h, side, w, side, C).mean((1, 3))
    sums, totals = x.new_zeros(h + 2, w + 2, C), x.new_zeros(h + 2, w + 2, 1)  # a border that is thrown away
    association = x.new_zeros(*padded.shape[:2], 9)
    for i in range(h * side):
        for j in range(w * side):
            y, z = i // side, j // side
            around = [(y + dy, z + dz) for dy in (-1, 0, 1) for dz in (-1, 0, 1)]
            inside = [0 <= a < h and 0 <= b < w for a, b in around]
            logits = [means[a, b] @ padded[i, j] * C**-0.5 if ok else 0 * x.sum() for (a, b), ok in zip(around, inside)]
            weights = torch.stack(logits).softmax(0).detach()
            association[i, j] = weights
            for (a, b), weight in zip(around, weights):
                sums[a + 1, b + 1] += weight * padded[i, j]
                totals[a + 1, b + 1] += weight
    tokens = (sums / totals)[1:-1, 1:-1].reshape(1, h * w, C)
    tokens = F.pad(obvious_attention(attn, tokens).view(h, w, C), (0, 0, 1, 1, 1, 1))
    out = torch.stack(
        [
            association[i, j] @ tokens[i // side : i // side + 3, j // side : j // side + 3].reshape(9, C)
            for i in range(H)
            for j in range(W)
        ]
    )
    return out.view(x.shape), association[None, :H, :W]


def build(*args: int) -> SuperTokenAttention:
    torch.manual_seed(0)
    return SuperTokenAttention(*args).double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_heads", [1, 4])
def test_equals_loops(size: tuple[int, int], num_heads: int) -> None:
    attn = build(16, num_heads, 4)
    x = torch.randn(1, *size, 16, dtype=torch.float64, requires_grad=True)
    expected, association = obvious(attn, x)
    torch.testing.assert_close(attn(x), expected)
    torch.testing.assert_close(attn.association(x), association)
    # The association is a constant to the gradient, in the loops by ``detach``.
    direction = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(attn(x), x, direction)
    (theirs,) = torch.autograd.grad(expected, x, direction)
    torch.testing.assert_close(ours, theirs)


def test_cells_of_one_pixel_are_plain_attention() -> None:
    attn = build(16, 2)
    x = torch.randn(2, 5, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(attn(x).flatten(1, 2), obvious_attention(attn, x.flatten(1, 2)))


def test_images_of_a_batch_do_not_mix() -> None:
    attn = build(16, 2, 4)
    x = torch.randn(3, 9, 14, 16, dtype=torch.float64)
    torch.testing.assert_close(attn(x), torch.cat([attn(image) for image in x.split(1)]))


def test_border_pixels_come_out_weaker() -> None:
    """What the reference does with ones on 3x3 cells, when its super tokens do not attend to each other."""
    attn = build(8, 1, 2)
    attn.attend_globally = lambda tokens: tokens
    out = attn(torch.ones(1, 6, 6, 8, dtype=torch.float64))[0, ::2, ::2, 0]
    edge = 6 * torch.e ** (8**0.5) / (6 * torch.e ** (8**0.5) + 3)
    corner = 4 * torch.e ** (8**0.5) / (4 * torch.e ** (8**0.5) + 5)
    expected = torch.tensor([[corner, edge, corner], [edge, 1, edge], [corner, edge, corner]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)
    assert f"{edge:.3f} {corner:.3f}" == "0.971 0.931"


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 5), (2, 1)])
def test_neighbours_are_those_of_unfold_and_fold(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, *size, 3)
    parts = torch.randn(2, *size, 9, 3)
    unfolded = F.unfold(grid.permute(0, 3, 1, 2), 3, padding=1).view(2, 3, 9, *size)
    assert torch.equal(gather_neighbours(grid), unfolded.permute(0, 3, 4, 2, 1).flatten(3))
    folded = F.fold(parts.permute(0, 4, 3, 1, 2).reshape(2, 27, -1), size, 3, padding=1)
    torch.testing.assert_close(sum_from_neighbours(parts.flatten(3)), folded.permute(0, 2, 3, 1))


def test_cell_size_bounds_the_association() -> None:
    x = torch.randn(1, 8, 8, 16, dtype=torch.float64)
    for cell_size in (2, 4):
        weights = build(16, 2, cell_size).association(x)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 8, 8, dtype=torch.float64))
        # Beyond the border a logit is 0, so its weight is the same for all three cells above the first row.
        assert torch.equal(weights[:, :cell_size, :, 0], weights[:, :cell_size, :, 1])
        assert not torch.equal(weights[:, cell_size, :, 0], weights[:, cell_size, :, 1])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="dim 32 is not a multiple of num_heads 5"):
        SuperTokenAttention(32, 5, 8)
    with pytest.raises(ValueError, match="cell_size .* got 0"):
        SuperTokenAttention(32, 4, 0)
