"""Attention of blocks to their neighbourhoods, with relative positions: plain, and chunk by chunk."""

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels.double_backward import differentiable_gradients
from backbones.kernels.machine import in_float32, use_fast_path

_LOG2_E = 1 / math.log(2)
_CHUNK = 2**20  # logits at a time: 4 MiB, which stay in the CPU's cache
Part = tuple[slice, slice]


def halo_attention(
    q: Tensor, kv: Tensor, height: Tensor, width: Tensor, num_heads: int, block_size: int, halo_size: int
) -> Tensor:
    """softmax(q_i k_j / sqrt(d) + q_i height_ij + q_i width_ij) v_j over the neighbourhood of a query's block.

    q: (B, H, W, nh * d), kv: (B, H', W', nh * (d + e)), key and value of a head after each other, sides multiples of a
    block; height and width: what the tables hold for query y (or x) of a block and key k of a neighbourhood,
    (ws, side, d) -> (B, H, W, nh * e)

    Args:
        q: Queries, of which a block has ``ws`` a side.
        kv: Keys and values; outside the map they are zero and take part.
        height: Table of relative rows.
        width: Table of relative columns.
        num_heads: Heads.
        block_size: Side of the blocks, in pixels of ``kv``.
        halo_size: Pixels around a block that belong to its neighbourhood.
    """
    sizes = num_heads, block_size, halo_size
    if not use_fast_path(q, kv):
        return _plain(q, kv, height, width, *sizes)
    return in_float32(lambda *tensors: _BlockedAttention.apply(*tensors, *sizes), q, kv, height, width)


def _blocks(x: Tensor, side: int, num_heads: int) -> Tensor:
    """View a map (B, H, W, nh * d) as blocks of side x side pixels, (B, H / side, W / side, nh, d, side, side)."""
    return (
        x.unflatten(3, (num_heads, -1)).unflatten(2, (-1, side)).unflatten(1, (-1, side)).permute(0, 1, 3, 5, 6, 2, 4)
    )


def _neighbourhoods(x: Tensor, side: int, block_size: int, num_heads: int) -> Tensor:
    """View a map that has its halo around it as neighbourhoods of side x side, (B, nH, nW, nh, d, side, side)."""
    return x.unflatten(3, (num_heads, -1)).unfold(1, side, block_size).unfold(2, side, block_size)


def _pad(x: Tensor, halo_size: int) -> Tensor:
    return F.pad(x, (0, 0, halo_size, halo_size, halo_size, halo_size))


def _plain(
    q: Tensor, kv: Tensor, height: Tensor, width: Tensor, num_heads: int, block_size: int, halo_size: int
) -> Tensor:
    """One fused attention with a dense bias (copies)."""
    # Not those of q over ws: OpenVINO would take the sizes that q had before every other pixel was left out.
    rows, columns = kv.shape[1] // block_size, kv.shape[2] // block_size
    ws, side, d = height.shape
    q = _blocks(q, ws, num_heads).permute(0, 1, 2, 3, 5, 6, 4).reshape(-1, num_heads, ws * ws, d)
    kv = _neighbourhoods(_pad(kv, halo_size), side, block_size, num_heads)
    kv = kv.permute(0, 1, 2, 3, 5, 6, 4).reshape(q.shape[0], num_heads, side * side, kv.shape[4])
    k, v = kv.split([d, kv.shape[-1] - d], dim=-1)
    pixels = q.unflatten(2, (ws, ws))
    vertical = torch.einsum("nhyxd,ykd->nhyxk", pixels, height)
    horizontal = torch.einsum("nhyxd,xkd->nhyxk", pixels, width)
    bias = (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(-2).flatten(2, 3)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B * nW, nh, ws * ws, e)
    out = out.transpose(1, 2).reshape(-1, rows, columns, ws, ws, num_heads * out.shape[-1])
    return out.transpose(2, 3).reshape(-1, rows * ws, columns * ws, out.shape[-1])


def _chunks(blocks: Tensor, side: int) -> tuple[int, list[Part]]:
    """How many images to take at a time, and which rows and columns of their blocks."""
    B, nH, nW, num_heads, _, ws, _ = blocks.shape
    n = max(1, _CHUNK // (num_heads * ws * ws * side * side))  # blocks
    columns = min(n, nW)
    rows = min(max(1, n // nW), nH)
    row_slices = [slice(i, i + rows) for i in range(0, nH, rows)]
    column_slices = [slice(i, i + columns) for i in range(0, nW, columns)]
    return min(max(1, n // (nH * nW)), B), list(product(row_slices, column_slices))


def _relative(table: Tensor, q: Tensor) -> Tensor:
    """q_yx table_yk. table: (ws, side, d), q: (G, d, ws, ws) -> (G, side, ws, ws)"""
    out = torch.bmm(table, q.permute(2, 1, 0, 3).flatten(2))
    return out.unflatten(2, (q.shape[0], -1)).permute(2, 1, 0, 3)


def _relative_backward(table: Tensor, q: Tensor, grad: Tensor, grad_table: Tensor, grad_q: Tensor) -> None:
    """Add to ``grad_table`` and ``grad_q`` what ``grad``, the gradient of ``_relative``, makes of them."""
    q, grad = q.permute(2, 1, 0, 3).flatten(2), grad.permute(2, 1, 0, 3).flatten(2)
    grad_table.baddbmm_(grad, q.transpose(1, 2))
    grad_q += torch.bmm(table.transpose(1, 2), grad).unflatten(2, (-1, grad_q.shape[3])).permute(2, 1, 0, 3)


def _logits(q: Tensor, k: Tensor, height: Tensor, width: Tensor, buffer: Tensor) -> Tensor:
    """q: (G, d, ws, ws), k: (G, M, d) -> (G, M, L) in ``buffer``; G heads of blocks, M keys, L queries"""
    G, d, ws, _ = q.shape
    side = height.shape[1]
    vertical = _relative(height, q).reshape(G, side, 1, ws * ws)
    horizontal = _relative(width, q.transpose(2, 3)).transpose(2, 3).reshape(G, 1, side, ws * ws)
    out = buffer[:G]
    torch.add(vertical, horizontal, out=out.view(G, side, side, ws * ws))
    return torch.baddbmm(out, k, q.flatten(2), alpha=_LOG2_E * d**-0.5, out=out)


def _add_overlapping(target: Tensor, source: Tensor, overlap: int) -> None:
    """Add neighbourhoods to a view of the map in which they overlap, those without a common pixel at a time."""
    for y, x in product(range(overlap), repeat=2):
        target[:, y::overlap, x::overlap] += source[:, y::overlap, x::overlap]


class _BlockedAttention(torch.autograd.Function):
    """``halo_attention``, a few blocks at a time.

    For 8 images the logits of one layer of HaloNet-H1 are 200 MB, and so is the dense bias that the fused CPU kernel
    would take and store for the backward pass; neighbourhoods are three times the map. Here none of them leaves the
    cache, and the backward pass computes them again. Keys are rows and queries columns, the order in which products of
    narrow heads and sums over keys run fastest; exponentials are powers of 2, which take a third of the time, so logits
    are in units of log 2.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, height: Tensor, width: Tensor, num_heads: int, block_size: int, halo_size: int
    ) -> Tensor:
        ws, side, d = height.shape
        e = kv.shape[3] // num_heads - d
        out = q.new_empty(q.shape[:3] + (num_heads * e,))
        q_blocks, out_blocks = _blocks(q, ws, num_heads), _blocks(out, ws, num_heads)
        log_total = q.new_empty(q_blocks.shape[:4] + (1, ws * ws))
        images, parts = _chunks(q_blocks, side)
        logits_buffer = q.new_empty(q_blocks[(slice(images), *parts[0])].shape[:4].numel(), side * side, ws * ws)
        tables = _LOG2_E * height, _LOG2_E * width
        for i in range(0, len(q), images):
            padded = _pad(kv[i : i + images], halo_size)
            neighbourhoods = _neighbourhoods(padded, side, block_size, num_heads).movedim(4, 6)
            for part in parts:
                c = (slice(i, i + images), *part)
                q_c = q_blocks[c].flatten(0, 3).contiguous()
                kv_c = neighbourhoods[(slice(None), *part)].reshape(len(q_c), side * side, d + e)
                weights = _logits(q_c, kv_c[..., :d], *tables, logits_buffer)
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
    @torch.autocast("cpu", enabled=False)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, height, width, out, log_total = ctx.saved_tensors
        num_heads, block_size, halo_size = ctx.sizes
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return differentiable_gradients(_plain, (q, kv, height, width, *ctx.sizes), ctx.needs_input_grad, grad)
        ws, side, d = height.shape
        _, H, W, _ = kv.shape
        grad_q, grad_kv, grad_height, grad_width = (torch.zeros_like(t) for t in (q, kv, height, width))
        q_blocks, out_blocks, grad_blocks, grad_q_blocks = (_blocks(t, ws, num_heads) for t in (q, out, grad, grad_q))
        images, parts = _chunks(q_blocks, side)
        G = q_blocks[(slice(images), *parts[0])].shape[:4].numel()
        logits_buffer, grad_buffer = (q.new_empty(G, side * side, ws * ws) for _ in range(2))
        tables = _LOG2_E * height, _LOG2_E * width
        overlap = -(-side // block_size)  # neighbourhoods this many blocks apart have no pixel in common
        for i in range(0, len(q), images):
            padded = _pad(kv[i : i + images], halo_size)
            grad_padded = torch.zeros_like(padded)
            neighbourhoods, grad_neighbourhoods = (
                _neighbourhoods(t, side, block_size, num_heads) for t in (padded, grad_padded)
            )
            for part in parts:
                c, here = (slice(i, i + images), *part), (slice(None), *part)
                q_c = q_blocks[c].flatten(0, 3).contiguous()
                k, v = neighbourhoods[here].movedim(4, 6).reshape(len(q_c), side * side, -1).tensor_split([d], 2)
                grad_c = grad_blocks[c].reshape(len(q_c), -1, ws * ws)
                dot = (grad_c * out_blocks[c].reshape_as(grad_c)).sum(1, keepdim=True)
                weights = _logits(q_c, k, *tables, logits_buffer)
                weights.sub_(log_total[c].flatten(0, 3)).exp2_()
                grad_logits = torch.bmm(v, grad_c, out=grad_buffer[: len(q_c)]).sub_(dot).mul_(weights)

                # With keys as columns these products are, for narrow heads, up to four times faster than as rows.
                grad_k = torch.bmm(q_c.flatten(2), grad_logits.transpose(1, 2)).mul_(d**-0.5)
                grad_v = torch.bmm(grad_c, weights.transpose(1, 2))
                target = grad_neighbourhoods[here]
                _add_overlapping(target, torch.cat([grad_k, grad_v], dim=1).view(target.shape), overlap)

                grad_q_c = torch.bmm(k.transpose(1, 2), grad_logits).mul_(d**-0.5).view_as(q_c)
                grad_logits = grad_logits.view(-1, side, side, ws * ws)
                vertical, horizontal = (grad_logits.sum(axis).unflatten(2, (ws, ws)) for axis in (2, 1))
                _relative_backward(height, q_c, vertical, grad_height, grad_q_c)
                q_t, horizontal_t, grad_q_t = (t.transpose(2, 3) for t in (q_c, horizontal, grad_q_c))
                _relative_backward(width, q_t, horizontal_t, grad_width, grad_q_t)
                grad_q_blocks[c] = grad_q_c.view(grad_q_blocks[c].shape)
            grad_kv[i : i + images] = grad_padded[:, halo_size : H + halo_size, halo_size : W + halo_size]
        return grad_q, grad_kv, grad_height, grad_width, None, None, None
