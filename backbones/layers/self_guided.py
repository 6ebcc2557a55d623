"""Attention of SG-Former (Ren et al., "Self-guided Transformer with Evolving Token Reallocation", ICCV 2023).

Every second block scores its pixels by the attention they receive (``HybridAttention``); the block after it merges
those that received little in large groups and those that received much in small ones (``SelfGuidedAttention``). In
both, and in the plain attention of the last stage, a depthwise convolution of the input (``LePE``) tells positions.
"""

import torch
from timm.layers import register_notrace_function, register_notrace_module, trunc_normal_
from torch import Tensor, nn

from backbones.kernels import sequential, sum_rows, to_nchw, to_nhwc
from backbones.layers.attention import attend, merge_heads, split_heads
from backbones.layers.window import crop, pad_to_multiple, window_partition, window_unpartition


def attend_and_score(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``attend``, and the attention that each key receives: the mean of its weights over heads and queries, detached.

    q: (B, N, nh * d), k and v: (B, M, nh * d) -> (B, N, nh * d) and (B, M) in float32. Builds the (B, nh, N, M)
    weights, which fused attention would not.

    Args:
        num_heads: Heads.
        scale: Of the logits.
        valid: (B, N) for N = M, False where a token is padding: nobody attends to it, and it attends to nobody.
    """
    q, k, v = split_heads(q, num_heads), split_heads(k, num_heads), split_heads(v, num_heads)
    weights = q @ (k * scale).transpose(-2, -1)  # (B, nh, N, M)
    if valid is not None:
        weights = weights.masked_fill(~valid[:, None, None], -float("inf"))
    weights = weights.softmax(dim=-1)
    received = weights.detach()
    if valid is not None:
        received = received * valid[:, None, :, None]
    # In float32 even where the weights are not: halves would make many scores equal.
    return merge_heads(weights.to(v.dtype) @ v), received.mean(dim=(1, 2), dtype=torch.float32)


@register_notrace_function
def window_valid(B: int, H: int, W: int, window_size: int, device: torch.device) -> Tensor | None:
    """Which tokens of the windows are pixels and not padding: (B * nW, ws * ws); None where all are."""
    if not torch.compiler.is_compiling() and H % window_size == 0 and W % window_size == 0:
        return None
    inside = torch.ones(B, H, W, 1, dtype=torch.bool, device=device)
    return window_partition(pad_to_multiple(inside, window_size), window_size).squeeze(-1)


class LePE(nn.Module):
    """Locally enhanced position encoding: a linear layer and a depthwise 3x3 convolution, added to what was attended.

    attended, x: (B, H, W, dim) -> (B, H, W, dim). Any H and W.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.linear = nn.Linear(dim, dim, **dd)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)

    def forward(self, attended: Tensor, x: Tensor) -> Tensor:
        return attended + sequential(x, self.linear, to_nchw, self.conv, to_nhwc)


class LePEAttention(nn.Module):
    """Global self-attention with LePE.

    x: (B, H, W, C) -> (B, H, W, C), None. Any H and W. Cost: N^2 * C twice, beside the projections. Like the other two
    it is given the last significance map and returns the next, but has no use for one and makes none.

    Args:
        dim: Channels.
        num_heads: Heads.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = nn.Linear(dim, 2 * dim, **dd)
        self.lepe = LePE(dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor, significance: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        k, v = sequential(x, self.kv).flatten(1, 2).chunk(2, dim=-1)
        attended = attend(sequential(x, self.q).flatten(1, 2), k, v, self.num_heads)
        return sequential(self.lepe(attended.view(x.shape), x), self.proj), None


@register_notrace_module
class HybridAttention(nn.Module):
    """Half of the heads attend to strided-convolution tokens of the whole map, half inside windows; scores the pixels.

    x: (B, H, W, C) -> (B, H, W, C), significance (B, H, W) in float32, without gradient.

    A pixel's significance is the attention it receives in its window plus what its strided token receives from all
    pixels, each a mean over heads and queries; both weigh the same where there are ws^2 strided tokens (at 224 pixels).
    Any H and W: padded with zeros at the bottom and right, to a multiple of ``sr_ratio`` for the convolution, which
    sees the padding, and of ``window_size`` for the windows, where it is masked. It still counts as a query in the
    mean, so that few pixels in a cut window score no higher than many in a whole one.
    Cost: N^2 / sr^2 * C / 2 twice (global half), N * ws^2 * C / 2 twice (local half), beside the projections.

    Args:
        dim: Channels.
        num_heads: Heads of both halves together.
        sr_ratio: Kernel and stride of the convolution, in pixels of the map.
        window_size: Side of the windows, in pixels of the map.

    Raises:
        ValueError: If ``num_heads`` is odd, or ``dim`` not a multiple of it.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, window_size: int = 7, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if num_heads % 2 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must be even, one half for each branch, and divide dim {dim}")
        self.half_heads = num_heads // 2
        self.scale = (dim // num_heads) ** -0.5
        self.sr_ratio = sr_ratio
        self.window_size = window_size
        self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio, **dd)
        self.norm = nn.LayerNorm(dim, **dd)
        self.act = nn.GELU()
        self.q1 = nn.Linear(dim, dim // 2, **dd)
        self.kv1 = nn.Linear(dim, dim, **dd)
        self.q2 = nn.Linear(dim, dim // 2, **dd)
        self.kv2 = nn.Linear(dim, dim, **dd)
        self.lepe = LePE(dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def attend_globally(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, H, W, C) -> (B, H, W, C / 2), (B, H, W)"""
        B, H, W, C = x.shape
        tokens = sequential(
            pad_to_multiple(x, self.sr_ratio), to_nchw, self.sr, to_nhwc, self.norm, self.act
        )  # (B, h, w, C)
        h, w = tokens.shape[1], tokens.shape[2]
        k, v = sequential(tokens, self.kv1).flatten(1, 2).chunk(2, dim=-1)
        out, received = attend_and_score(sequential(x, self.q1).flatten(1, 2), k, v, self.half_heads, self.scale)
        received = received.view(B, h, 1, w, 1).expand(B, h, self.sr_ratio, w, self.sr_ratio)
        received = received.reshape(B, h * self.sr_ratio, w * self.sr_ratio)
        return out.view(B, H, W, C // 2), crop(received, H, W)

    def attend_locally(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, H, W, C) -> (B, H, W, C / 2), (B, H, W)"""
        B, H, W, C = x.shape
        x = pad_to_multiple(x, self.window_size)
        padded_h, padded_w = x.shape[1], x.shape[2]
        windows = window_partition(x, self.window_size)  # (B * nW, ws * ws, C)
        size = windows.shape[:2]
        windows = windows.view(B, padded_h * padded_w, C)  # layers see the batch first
        k, v = sequential(windows, self.kv2).view(*size, C).chunk(2, dim=-1)
        valid = window_valid(B, H, W, self.window_size, x.device)
        q = sequential(windows, self.q2).view(*size, C // 2)
        out, received = attend_and_score(q, k, v, self.half_heads, self.scale, valid)
        out = window_unpartition(out, self.window_size, padded_h, padded_w)
        received = window_unpartition(received.unsqueeze(-1), self.window_size, padded_h, padded_w)
        return crop(out, H, W), crop(received, H, W).squeeze(-1)

    def forward(self, x: Tensor, significance: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        far, received_far = self.attend_globally(x)
        near, received_near = self.attend_locally(x)
        attended = self.lepe(torch.cat([far, near], dim=-1), x)
        return sequential(attended, self.proj), received_near + received_far


@register_notrace_module
class TokenMerge(nn.Module):
    """Merges tokens by runs: each result is a weighted sum of ``size`` tokens that follow one another in order.

    x: (B, N, C), order: (B, N) indices -> (B, M, C), with M = ceil(n / size) for the n tokens of its part of the
    order. Where the last run would be cut, the part is stretched: some tokens, evenly spread, count twice.
    Cost: C a token.

    Args:
        start: First token of the part, in quarters of the order.
        stop: End of the part, in quarters.
        size: Tokens of a run.
    """

    def __init__(self, start: int, stop: int, size: int, device=None, dtype=None) -> None:
        super().__init__()
        self.start = start
        self.stop = stop
        self.weight = nn.Parameter(torch.empty(1, size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights: truncated normal, std 0.02; bias: 0."""
        trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        B, N, C = x.shape
        start, stop, size = N * self.start // 4, N * self.stop // 4, self.weight.shape[1]
        runs = (stop - start + size - 1) // size
        position = start + torch.arange(runs * size, device=x.device) * (stop - start) // (runs * size)
        token = order[:, position] + torch.arange(0, B * N, N, device=x.device).unsqueeze(1)  # of the batch
        token = token.view(B * runs, size)
        weight = self.weight.to(x.dtype).expand(B * runs, size).contiguous()
        merged = sum_rows(x.reshape(B * N, C), token, weight)
        return merged.view(B, runs, C) + self.bias


@register_notrace_module
class SelfGuidedAttention(nn.Module):
    """All pixels attend to tokens that are merged by significance: the less significant, the more pixels in a token.

    x: (B, H, W, C), significance: (B, H, W) -> (B, H, W, C), None.

    Pixels are ordered by significance, least first, and merged in runs. Keys and values of the first half of the heads
    come from the order that breaks ties by rows, those of the second half from the one that breaks them by columns; the
    two are equal but for ties. Any H and W with at least 4 pixels (``TokenMerge`` says how runs are filled). The order
    has no gradient. Cost: N * M * C twice for M merged tokens, beside sorting and the projections.

    Args:
        dim: Channels.
        num_heads: Heads.
        merging: (quarters of the pixels, pixels in a token) of each class, the least significant first.

    Raises:
        ValueError: If ``num_heads`` is odd, or ``dim`` not a multiple of it; if ``merging`` does not sum to 4 quarters;
            if there is no significance map or it has fewer than 4 pixels.
    """

    def __init__(self, dim: int, num_heads: int, merging: tuple[tuple[int, int], ...], device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if num_heads % 2 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must be even, one half for each order, and divide dim {dim}")
        if sum(quarters for quarters, _ in merging) != 4:
            raise ValueError(f"merging {merging} must divide the pixels into 4 quarters")
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, **dd)
        self.merge = nn.ModuleList()
        start = 0
        for quarters, size in merging:
            self.merge.append(TokenMerge(start, start + quarters, size, **dd))
            start += quarters
        self.kv1 = nn.Linear(dim, dim, **dd)
        self.kv2 = nn.Linear(dim, dim, **dd)
        self.lepe = LePE(dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def merged(self, x: Tensor, order: Tensor) -> Tensor:
        """x: (B, N, C), order: (B, N) -> (B, M, C)"""
        return torch.cat([merge(x, order) for merge in self.merge], dim=1)

    def orders(self, significance: Tensor) -> tuple[Tensor, Tensor]:
        """Indices along the rows of the pixels, the least significant first, with ties by rows and by columns.

        significance: (B, H, W) -> (B, N), (B, N). Stable, so that every device breaks ties the same way.
        """
        H, W = significance.shape[1], significance.shape[2]
        by_rows = torch.sort(significance.flatten(1), dim=1, stable=True)[1]
        by_columns = torch.sort(significance.transpose(1, 2).flatten(1), dim=1, stable=True)[1]
        return by_rows, by_columns % H * W + by_columns // H

    def attend_merged(self, x: Tensor, by_rows: Tensor, by_columns: Tensor) -> Tensor:
        """x: (B, H, W, C), orders: (B, N) -> (B, H, W, C)"""
        tokens = x.flatten(1, 2)
        k1, v1 = sequential(self.merged(tokens, by_rows), self.kv1).chunk(2, dim=-1)
        k2, v2 = sequential(self.merged(tokens, by_columns), self.kv2).chunk(2, dim=-1)
        k, v = torch.cat([k1, k2], dim=-1), torch.cat([v1, v2], dim=-1)
        attended = attend(sequential(tokens, self.q), k, v, self.num_heads)
        return sequential(self.lepe(attended.view(x.shape), x), self.proj)

    def forward(self, x: Tensor, significance: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if significance is None:
            raise ValueError("self-guided attention needs the significance map of a hybrid attention before it")
        if x.shape[1] * x.shape[2] < 4:
            raise ValueError(f"self-guided attention needs at least 4 pixels, got a map of {list(x.shape)}")
        by_rows, by_columns = self.orders(significance)
        return self.attend_merged(x, by_rows, by_columns), None
