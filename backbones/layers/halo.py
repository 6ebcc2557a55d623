"""Blocked local attention with a halo (Vaswani et al., arXiv:2103.12731, sections 2.2 and 3)."""

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from backbones.layers.attention import attend_heads, merge_heads, split_heads
from backbones.layers.kernels import use_fast_kernels
from backbones.layers.layout import to_nchw, to_nhwc
from backbones.layers.linear import Linear
from backbones.layers.window import crop, halo_partition, pad_to_multiple, window_partition, window_unpartition

_LOG2_E = 1 / math.log(2)
_CHUNK = 2**20  # logits at a time: 4 MiB, which stay in the processor's cache


def _blocks(x: Tensor, side: int, num_heads: int) -> Tensor:
    """View a map (B, H, W, nh * d) as blocks of side x side pixels, (B, H / side, W / side, nh, d, side, side)."""
    return (
        x.unflatten(3, (num_heads, -1)).unflatten(2, (-1, side)).unflatten(1, (-1, side)).permute(0, 1, 3, 5, 6, 2, 4)
    )


def _halos(x: Tensor, side: int, block_size: int, num_heads: int) -> Tensor:
    """View a map that has its halo around it as neighbourhoods of side x side, (B, nH, nW, nh, d, side, side)."""
    return x.unflatten(3, (num_heads, -1)).unfold(1, side, block_size).unfold(2, side, block_size)


class _HaloAttention(torch.autograd.Function):
    """The attention of ``HaloAttention``, a few blocks at a time.

    For 8 images the logits of one layer of HaloNet-H1 are 200 MB, and so is the dense bias that the processor's fused
    kernel would want and would keep for the backward pass; neighbourhoods are three times the map. Here none of them
    leaves the cache, and the backward pass computes them again. Keys are rows and queries columns, the order in which
    products of narrow heads and sums over keys run fastest; exponentials are powers of 2, which take a third of the
    time, so logits are in units of log 2.

    q: (B, H, W, nh * d), kv: (B, H', W', nh * (d + e)), sides multiples of a block; height and width: what the tables
    hold for query y (or x) of a block and key k of a neighbourhood, (ws, side, d) -> (B, H, W, nh * e)
    """

    @staticmethod
    def parts(blocks: Tensor, side: int) -> tuple[int, list[tuple[slice, slice]]]:
        """How many images to take at a time, and which rows and columns of their blocks."""
        B, nH, nW, num_heads, _, ws, _ = blocks.shape
        n = max(1, _CHUNK // (num_heads * ws * ws * side * side))  # blocks
        columns = min(n, nW)
        rows = min(max(1, n // nW), nH)
        row_slices = [slice(i, i + rows) for i in range(0, nH, rows)]
        column_slices = [slice(i, i + columns) for i in range(0, nW, columns)]
        return min(max(1, n // (nH * nW)), B), list(product(row_slices, column_slices))

    @staticmethod
    def relative(table: Tensor, q: Tensor) -> Tensor:
        """q_yx table_yk. table: (ws, side, d), q: (G, d, ws, ws) -> (G, side, ws, ws)"""
        out = torch.bmm(table, q.permute(2, 1, 0, 3).flatten(2))
        return out.unflatten(2, (q.shape[0], -1)).permute(2, 1, 0, 3)

    @staticmethod
    def relative_backward(table: Tensor, q: Tensor, grad: Tensor, grad_table: Tensor, grad_q: Tensor) -> None:
        """Add to ``grad_table`` and ``grad_q`` what ``grad``, the gradient of ``relative``, makes of them."""
        q, grad = q.permute(2, 1, 0, 3).flatten(2), grad.permute(2, 1, 0, 3).flatten(2)
        grad_table.baddbmm_(grad, q.transpose(1, 2))
        grad_q += torch.bmm(table.transpose(1, 2), grad).unflatten(2, (-1, grad_q.shape[3])).permute(2, 1, 0, 3)

    @staticmethod
    def logits(q: Tensor, k: Tensor, height: Tensor, width: Tensor, buffer: Tensor) -> Tensor:
        """q: (G, d, ws, ws), k: (G, M, d) -> (G, M, L) in ``buffer``; G heads of blocks, M keys, L queries"""
        G, d, ws, _ = q.shape
        side = height.shape[1]
        vertical = _HaloAttention.relative(height, q).reshape(G, side, 1, ws * ws)
        horizontal = _HaloAttention.relative(width, q.transpose(2, 3)).transpose(2, 3).reshape(G, 1, side, ws * ws)
        out = buffer[:G]
        torch.add(vertical, horizontal, out=out.view(G, side, side, ws * ws))
        return torch.baddbmm(out, k, q.flatten(2), alpha=_LOG2_E * d**-0.5, out=out)

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, height: Tensor, width: Tensor, num_heads: int, block_size: int, halo_size: int
    ) -> Tensor:
        ws, side, d = height.shape
        e = kv.shape[3] // num_heads - d
        out = q.new_empty(q.shape[:3] + (num_heads * e,))
        q_blocks, out_blocks = _blocks(q, ws, num_heads), _blocks(out, ws, num_heads)
        log_total = q.new_empty(q_blocks.shape[:4] + (1, ws * ws))
        images, parts = _HaloAttention.parts(q_blocks, side)
        buffer = q.new_empty(q_blocks[(slice(images), *parts[0])].shape[:4].numel(), side * side, ws * ws)
        tables = _LOG2_E * height, _LOG2_E * width
        for i in range(0, len(q), images):
            kv_i = F.pad(kv[i : i + images], (0, 0, halo_size, halo_size, halo_size, halo_size))
            halos = _halos(kv_i, side, block_size, num_heads).movedim(4, 6)
            for part in parts:
                c = (slice(i, i + images), *part)
                q_c = q_blocks[c].flatten(0, 3).contiguous()
                kv_c = halos[(slice(None), *part)].reshape(len(q_c), side * side, d + e)
                weights = _HaloAttention.logits(q_c, kv_c[..., :d], *tables, buffer)
                peak = weights.view(-1, side, side, ws * ws).amax(1).amax(1, keepdim=True)
                weights.sub_(peak).exp2_()
                total = weights.sum(1, keepdim=True)
                out_c = torch.bmm(kv_c[..., d:].transpose(1, 2), weights).div_(total)
                out_blocks[c] = out_c.view(out_blocks[c].shape)
                log_total[c] = peak.add_(total.log2_()).view(log_total[c].shape)
        ctx.save_for_backward(q, kv, height, width, out, log_total)
        ctx.sizes = num_heads, block_size, halo_size
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, height, width, out, log_total = ctx.saved_tensors
        num_heads, block_size, halo_size = ctx.sizes
        ws, side, d = height.shape
        _, H, W, _ = kv.shape
        grad_q, grad_kv, grad_height, grad_width = (torch.zeros_like(t) for t in (q, kv, height, width))
        q_blocks, out_blocks, grad_blocks, grad_q_blocks = (_blocks(t, ws, num_heads) for t in (q, out, grad, grad_q))
        images, parts = _HaloAttention.parts(q_blocks, side)
        G = q_blocks[(slice(images), *parts[0])].shape[:4].numel()
        buffer, grad_buffer = (q.new_empty(G, side * side, ws * ws) for _ in range(2))
        tables = _LOG2_E * height, _LOG2_E * width
        overlap = -(-side // block_size)  # neighbourhoods this many blocks apart have no pixel in common
        for i in range(0, len(q), images):
            kv_i = F.pad(kv[i : i + images], (0, 0, halo_size, halo_size, halo_size, halo_size))
            grad_kv_i = torch.zeros_like(kv_i)
            halos, grad_halos = (_halos(t, side, block_size, num_heads) for t in (kv_i, grad_kv_i))
            for part in parts:
                c = (slice(i, i + images), *part)
                q_c = q_blocks[c].flatten(0, 3).contiguous()
                k, v = halos[(slice(None), *part)].movedim(4, 6).reshape(len(q_c), side * side, -1).tensor_split([d], 2)
                grad_c = grad_blocks[c].reshape(len(q_c), -1, ws * ws)
                dot = (grad_c * out_blocks[c].reshape_as(grad_c)).sum(1, keepdim=True)
                weights = _HaloAttention.logits(q_c, k, *tables, buffer)
                weights.sub_(log_total[c].flatten(0, 3)).exp2_()
                logits = torch.bmm(v, grad_c, out=grad_buffer[: len(q_c)]).sub_(dot).mul_(weights)  # their gradient

                # With keys as columns these products are, for narrow heads, up to four times faster than as rows.
                grad_k = torch.bmm(q_c.flatten(2), logits.transpose(1, 2)).mul_(d**-0.5)
                grad_v = torch.bmm(grad_c, weights.transpose(1, 2))
                target = grad_halos[(slice(None), *part)]
                source = torch.cat([grad_k, grad_v], dim=1).view(target.shape)
                for y, x in product(range(overlap), repeat=2):
                    target[:, y::overlap, x::overlap] += source[:, y::overlap, x::overlap]

                grad_q_c = torch.bmm(k.transpose(1, 2), logits).mul_(d**-0.5).view_as(q_c)
                logits = logits.view(-1, side, side, ws * ws)
                vertical, horizontal = logits.sum(2).unflatten(2, (ws, ws)), logits.sum(1).unflatten(2, (ws, ws))
                _HaloAttention.relative_backward(height, q_c, vertical, grad_height, grad_q_c)
                q_t, horizontal_t, grad_q_t = (t.transpose(2, 3) for t in (q_c, horizontal, grad_q_c))
                _HaloAttention.relative_backward(width, q_t, horizontal_t, grad_width, grad_q_t)
                grad_q_blocks[c] = grad_q_c.view(grad_q_blocks[c].shape)
            grad_kv[i : i + images] = grad_kv_i[:, halo_size : H + halo_size, halo_size : W + halo_size]
        return grad_q, grad_kv, grad_height, grad_width, None, None, None


@register_notrace_module
class HaloAttention(nn.Module):
    """The pixels of a block attend to the block and a halo around it, with relative positions of rows and columns.

    x: (B, H, W, dim) -> (B, ceil(H / stride), ceil(W / stride), dim_v). Any H and W: padded at the bottom and right to
    multiples of ``block_size``. Padding and everything else outside the map are zero keys and values that are not
    masked: they keep their relative logit and take part of the softmax, as in timm. Cost, beside the projections:
    N / stride^2 * (block_size + 2 * halo_size)^2 * (dim + dim_v).

    The logit of query i and key j is q_i k_j / sqrt(d) + q_i height_rel[row] + q_i width_rel[column], where row is that
    of the key in its neighbourhood minus that of the query in its block plus block_size + 2 * halo_size - 1. The tables
    are shared by the heads and start with 2 * halo_size rows that no pair reaches, as in timm. There is no
    projection after the attention.

    Args:
        dim: Channels in, and of queries and keys.
        num_heads: Heads.
        block_size: Side of the blocks, in pixels of the incoming map.
        halo_size: Width of the halo, in pixels of the incoming map.
        stride: 1, or 2 to halve the resolution: every second pixel asks (timm's reading of the paper); if
            ``block_size`` is odd, every pixel does and 2x2 averages of the result are taken.
        dim_v: Channels of the values and out; ``dim`` by default.

    Raises:
        ValueError: If ``dim`` or ``dim_v`` is not a multiple of ``num_heads``, or ``stride`` neither 1 nor 2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        dim_v: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        dim_v = dim if dim_v is None else dim_v
        if dim % num_heads or dim_v % num_heads:
            raise ValueError(f"dim {dim} and dim_v {dim_v} must be multiples of num_heads {num_heads}")
        if stride not in (1, 2):
            raise ValueError(f"stride is 1 or 2, got {stride}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.head_dim_v = dim_v // num_heads
        self.block_size = block_size
        self.halo_size = halo_size
        self.pool = stride == 2 and block_size % 2 == 1
        self.query_stride = 1 if self.pool else stride

        side = block_size + 2 * halo_size
        self.q = Linear(dim, dim, bias=False, **dd)
        self.kv = Linear(dim, dim + dim_v, bias=False, **dd)  # key and value of head 0, of head 1, ...
        self.height_rel = nn.Parameter(torch.empty(2 * side - 1, self.head_dim, **dd))
        self.width_rel = nn.Parameter(torch.empty(2 * side - 1, self.head_dim, **dd))

    def reset_parameters(self) -> None:
        """Truncated normal: projections with std 1 / sqrt(fan_in), tables with 1 / sqrt(d) (timm)."""
        for weight in (self.q.weight, self.kv.weight, self.height_rel, self.width_rel):
            trunc_normal_(weight, std=weight.shape[1] ** -0.5)

    def relative_rows(self) -> tuple[Tensor, Tensor]:
        """What each table holds for query y (or x) of a block and key k of a neighbourhood: twice (ws, side, d)"""
        ws, side = self.block_size // self.query_stride, self.block_size + 2 * self.halo_size
        device = self.height_rel.device
        row = torch.arange(side, device=device)[None] - torch.arange(ws, device=device)[:, None] + side - 1
        return self.height_rel[row], self.width_rel[row]

    def attend(self, q: Tensor, kv: Tensor) -> Tensor:
        """q: (B, H, W, dim), kv: (B, H', W', dim + dim_v) -> (B, H, W, dim_v), sides multiples of a block"""
        _, H, W, _ = q.shape
        height, width = self.relative_rows()
        ws = height.shape[0]
        q = split_heads(window_partition(q, ws), self.num_heads)  # (B * nW, nh, ws * ws, d)
        kv = halo_partition(kv, self.block_size, self.halo_size, self.num_heads)
        k, v = kv.split([self.head_dim, self.head_dim_v], dim=-1)
        vertical = torch.einsum("nhyxd,ykd->nhyxk", q.unflatten(2, (ws, ws)), height)
        horizontal = torch.einsum("nhyxd,xkd->nhyxk", q.unflatten(2, (ws, ws)), width)
        bias = (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(-2).flatten(2, 3)
        return window_unpartition(merge_heads(attend_heads(q, k, v, bias)), ws, H, W)

    @torch.jit.unused
    def attend_fast(self, q: Tensor, kv: Tensor) -> Tensor:
        """The same by ``_HaloAttention``."""
        return _HaloAttention.apply(q, kv, *self.relative_rows(), self.num_heads, self.block_size, self.halo_size)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        x = pad_to_multiple(x, self.block_size)  # there is no bias, so keys and values of padding are zero
        q = self.q(x[:, :: self.query_stride, :: self.query_stride])
        kv = self.kv(x)
        if torch.jit.is_scripting():
            out = self.attend(q, kv)
        elif use_fast_kernels(x) and not torch.jit.is_tracing() and not torch.compiler.is_compiling():
            out = self.attend_fast(q, kv)
        else:
            out = self.attend(q, kv)
        if self.query_stride == 2:
            H, W = (H + 1) // 2, (W + 1) // 2
        out = crop(out, H, W)
        if self.pool:
            out = to_nhwc(F.avg_pool2d(to_nchw(out), 2, ceil_mode=True, count_include_pad=False))
        return out
