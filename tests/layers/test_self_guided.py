"""Hybrid and self-guided attention against loops over pixels, windows and merged tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import HybridAttention, LePEAttention, SelfGuidedAttention, TokenMerge

SIZES = [(14, 14), (8, 12), (9, 16), (3, 5), (2, 2)]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """One head at a time. q: (N, C), k and v: (M, C) -> (N, C), weights (nh, N, M)"""
    outs, maps = [], []
    for qh, kh, vh in zip(*(t.chunk(num_heads, dim=-1) for t in (q, k, v)), strict=True):
        maps.append((qh @ kh.T / qh.shape[-1] ** 0.5).softmax(-1))
        outs.append(maps[-1] @ vh)
    return torch.cat(outs, dim=-1), torch.stack(maps)


def plus_lepe(attn: nn.Module, attended: Tensor, x: Tensor) -> Tensor:
    conv = F.conv2d(
        attn.lepe.linear(x).permute(2, 0, 1), attn.lepe.conv.weight, attn.lepe.conv.bias, 1, 1, 1, len(x.mT[0])
    )
    return attn.proj(attended + conv.permute(1, 2, 0))


def obvious_hybrid(attn: HybridAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """One image (H, W, C) -> (H, W, C), (H, W)."""
    H, W, C = x.shape
    sr, ws, heads = attn.sr_ratio, attn.window_size, attn.half_heads
    padded = x.new_zeros(-(-H // sr) * sr, -(-W // sr) * sr, C)
    padded[:H, :W] = x
    tokens = F.conv2d(padded.permute(2, 0, 1), attn.sr.weight, attn.sr.bias, sr).permute(1, 2, 0)
    h, w = tokens.shape[:2]
    k, v = attn.kv1(F.gelu(attn.norm(tokens))).flatten(0, 1).chunk(2, dim=-1)
    far, weights = softmax_attention(attn.q1(x).flatten(0, 1), k, v, heads)
    received = weights.mean((0, 1)).view(h, w)
    score = torch.stack([torch.stack([received[i // sr, j // sr] for j in range(W)]) for i in range(H)])
    near = torch.zeros(H, W, C // 2, dtype=x.dtype)
    for i in range(0, H, ws):
        for j in range(0, W, ws):
            window = x[i : i + ws, j : j + ws]  # a cut window has fewer pixels
            k, v = attn.kv2(window).flatten(0, 1).chunk(2, dim=-1)
            out, weights = softmax_attention(attn.q2(window).flatten(0, 1), k, v, heads)
            near[i : i + ws, j : j + ws] = out.view(*window.shape[:2], C // 2)
            score[i : i + ws, j : j + ws] += weights.mean(0).sum(0).view(window.shape[:2]) / ws**2
    return plus_lepe(attn, torch.cat([far.view(H, W, C // 2), near], dim=-1), x), score


def obvious_guided(attn: SelfGuidedAttention, x: Tensor, score: Tensor) -> Tensor:
    """One image (H, W, C), (H, W) -> (H, W, C)."""
    H, W, C = x.shape
    keys, values = [], []
    for kv, by_columns in ((attn.kv1, False), (attn.kv2, True)):
        pixels = (
            [(i, j) for j in range(W) for i in range(H)] if by_columns else [(i, j) for i in range(H) for j in range(W)]
        )
        pixels.sort(key=lambda p: score[p].item())  # Python's sort is stable
        tokens = []
        for merge in attn.merge:
            part = pixels[len(pixels) * merge.start // 4 : len(pixels) * merge.stop // 4]
            size = merge.weight.shape[1]
            slots = -(-len(part) // size) * size
            filled = [part[slot * len(part) // slots] for slot in range(slots)]
            for first in range(0, slots, size):
                run = filled[first : first + size]
                tokens.append(sum(w * x[p] for w, p in zip(merge.weight[0], run, strict=True)) + merge.bias)
        k, v = kv(torch.stack(tokens)).chunk(2, dim=-1)
        keys.append(k)
        values.append(v)
    out, _ = softmax_attention(attn.q(x).flatten(0, 1), torch.cat(keys, -1), torch.cat(values, -1), attn.num_heads)
    return plus_lepe(attn, out.view(H, W, C), x)


def randomised(module: nn.Module) -> nn.Module:
    """Biases too: those of 0 would hide what padding does."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("sr_ratio", "window_size"), [(4, 7), (2, 3), (1, 1)])
def test_hybrid_equals_loops(size: tuple[int, int], sr_ratio: int, window_size: int) -> None:
    torch.manual_seed(0)
    attn = randomised(HybridAttention(16, 4, sr_ratio, window_size))
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    out, significance = attn(x)
    assert significance.dtype == torch.float32 and not significance.requires_grad
    for b in range(2):
        expected, score = obvious_hybrid(attn, x[b])
        torch.testing.assert_close(out[b], expected)
        torch.testing.assert_close(significance[b], score.float())


def test_significance_of_pixels_sums_to_what_queries_give() -> None:
    """Whether windows are cut or not: a pixel of a cut window must not look significant for that."""
    torch.manual_seed(0)
    attn = HybridAttention(16, 2, 1, 7)  # with strided tokens of one pixel, these receive 1 / (H * W) on average
    for size in ((14, 14), (9, 16)):
        _, significance = attn(torch.zeros(1, *size, 16))
        H, W = size
        torch.testing.assert_close(significance, torch.full((1, H, W), 1 / 49 + 1 / (H * W)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("merging", [((1, 9), (2, 4), (1, 2)), ((2, 2), (2, 1)), ((4, 1),)])
@pytest.mark.parametrize("ties", [False, True])
def test_self_guided_equals_loops(size: tuple[int, int], merging: tuple, ties: bool) -> None:
    torch.manual_seed(0)
    attn = randomised(SelfGuidedAttention(16, 4, merging))
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    significance = torch.randint(3, (2, *size)).float() if ties else torch.rand(2, *size)
    out, passed_on = attn(x, significance)
    assert passed_on is None
    for b in range(2):
        torch.testing.assert_close(out[b], obvious_guided(attn, x[b], significance[b]))


def test_merging_fills_whole_runs_exactly() -> None:
    """At a multiple of the run no token counts twice; otherwise every token counts, and at most one slot more often."""
    x = torch.eye(8, dtype=torch.float64)[None]
    order = torch.tensor([[7, 6, 5, 4, 3, 2, 1, 0]])
    merge = TokenMerge(0, 4, 4).double()
    nn.init.ones_(merge.weight)
    nn.init.zeros_(merge.bias)
    assert merge(x, order)[0].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]]
    merge = TokenMerge(0, 4, 3).double()
    nn.init.ones_(merge.weight)
    nn.init.zeros_(merge.bias)
    counts = merge(x, order)[0].sum(0)
    assert merge(x, order).shape == (1, 3, 8)
    assert counts.sum() == 9 and set(counts.tolist()) == {1, 2}


def test_plain_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    attn = randomised(LePEAttention(16, 4))
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    k, v = attn.kv(x).flatten(0, 1).chunk(2, dim=-1)
    attended, _ = softmax_attention(attn.q(x).flatten(0, 1), k, v, 4)
    out, significance = attn(x[None])
    assert significance is None
    torch.testing.assert_close(out[0], plus_lepe(attn, attended.view(3, 5, 16), x))


def test_gradients_match_numerical_ones() -> None:
    torch.manual_seed(0)
    hybrid = HybridAttention(4, 2, 2, 3).double()
    guided = SelfGuidedAttention(4, 2, ((2, 4), (2, 2))).double()
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hybrid(x)[0], x)
    significance = torch.rand(1, 4, 5)
    assert torch.autograd.gradcheck(lambda x: guided(x, significance)[0], x)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_heads 3 must be even"):
        HybridAttention(48, 3, 2)
    with pytest.raises(ValueError, match="num_heads 4 must be even.* and divide dim 30"):
        HybridAttention(30, 4, 2)
    with pytest.raises(ValueError, match="num_heads 3 must be even"):
        SelfGuidedAttention(48, 3, ((4, 1),))
    with pytest.raises(ValueError, match="must divide the pixels into 4 quarters"):
        SelfGuidedAttention(16, 2, ((1, 4), (2, 2)))
    with pytest.raises(ValueError, match="dim 30 is not a multiple of num_heads 4"):
        LePEAttention(30, 4)
    guided = SelfGuidedAttention(16, 2, ((4, 1),))
    with pytest.raises(ValueError, match="needs the significance map"):
        guided(torch.randn(1, 4, 4, 16))
    with pytest.raises(ValueError, match="at least 4 pixels"):
        guided(torch.randn(1, 1, 3, 16), torch.randn(1, 1, 3))
