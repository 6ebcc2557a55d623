"""Attention by tiles of a map whose queries share keys: plain, and an image at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels.double_backward import differentiable_gradients
from backbones.kernels.machine import in_float32, use_fast_path

_CHUNK = 2**17  # logits at a time in the backward pass: 0.5 MiB, which stay in the cache


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    queries: Tensor,
    keys: Tensor,
    places: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """softmax(scale * q k^T + bias) v, where the T queries of a tile get the M keys of the tile.

    q: (B, N, C), k, v: (B, L, C) -> (B, N, C)

    Args:
        q: Queries.
        k: Keys, of which tiles may have some in common.
        v: Values.
        bias: (G, nh or 1, T, M), added to the logits of each tile; -inf hides a key.
        queries: (G * T,) number of each query of each of the G tiles; queries may repeat.
        keys: (G, M) number of each key of each tile.
        places: (N,) where among ``queries`` the N queries are.
        num_heads: Heads, nh.
        scale: Of the logits.
    """
    options = queries, keys, places, num_heads, scale
    if not use_fast_path(q, k, v):
        return _plain(q, k, v, bias, *options)
    return in_float32(lambda *tensors: _ImageByImage.apply(*tensors, *options), q, k, v, bias)


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    queries: Tensor,
    keys: Tensor,
    places: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """One fused attention on the keys of all tiles (copies)."""
    B, _, C = q.shape
    (G, M), T = keys.shape, bias.shape[2]

    def heads(x: Tensor, rows: Tensor, n: int) -> Tensor:
        """(B, L, C) -> (B, G * nh, n, d), copies: the batch shares the bias"""
        x = x.index_select(1, rows).reshape(B, G, n, num_heads, C // num_heads)
        return x.transpose(2, 3).flatten(1, 2)

    q, k, v = heads(q, queries, T), heads(k, keys.flatten(), M), heads(v, keys.flatten(), M)
    bias = bias.expand(G, num_heads, T, M).flatten(0, 1)[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # (B, G, T, nh, d). Not split first: OpenVINO would move an axis of one head into the attention and leave its bias.
    out = out.transpose(1, 2).unflatten(2, (G, num_heads)).transpose(1, 2)
    return out.reshape(B, G * T, C).index_select(1, places)


def _heads(x: Tensor, rows: Tensor, tiles: int, num_heads: int) -> Tensor:
    """Gather the rows of tiles: (L, C) -> (G, nh, n, d)"""
    return x.index_select(0, rows).view(tiles, -1, num_heads, x.shape[1] // num_heads).transpose(1, 2)


def _add_heads(target: Tensor, rows: Tensor, source: Tensor, num_heads: int) -> None:
    """Add what tiles have for their rows: the transpose of ``_heads``. source: (G * nh, n, d)"""
    source = source.unflatten(0, (-1, num_heads)).transpose(1, 2).reshape(len(rows), -1)
    target.index_add_(0, rows, source)


class _ImageByImage(torch.autograd.Function):
    """``_plain`` an image at a time: the keys of all tiles are gathered for one image only, and never kept."""

    @staticmethod
    def forward(q, k, v, bias, queries, keys, places, num_heads, scale) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        G, rows = len(keys), keys.flatten()
        mask = bias.detach()  # else the kernel that keeps no weights is not taken
        for q_i, k_i, v_i, out_i in zip(q, k, v, out, strict=True):
            query, key, value = (_heads(x, r, G, num_heads) for x, r in ((q_i, queries), (k_i, rows), (v_i, rows)))
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
            torch.index_select(y.transpose(1, 2).reshape(-1, q.shape[2]), 0, places, out=out_i)
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, num_heads, scale = inputs
        ctx.save_for_backward(*tensors)
        ctx.options = num_heads, scale

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return differentiable_gradients(_plain, (*tensors, *ctx.options), ctx.needs_input_grad, grad)
        q, k, v, bias, queries, keys, places = tensors
        num_heads, scale = ctx.options
        grad_q, grad_k, grad_v, grad_bias = (x.new_zeros(x.shape) for x in (q, k, v, bias))
        G, T, M = len(keys), bias.shape[2], keys.shape[1]
        step = max(1, _CHUNK // (num_heads * T * M))  # tiles
        first = q.new_zeros(len(queries), 1).index_fill_(0, places, 1)  # not the repeated queries
        for i in range(len(q)):
            for tiles in (slice(j, j + step) for j in range(0, G, step)):
                n = len(keys[tiles])
                asked, rows = queries.view(G, T)[tiles].flatten(), keys[tiles].flatten()
                q_c, k_c, v_c, grad_c = (
                    _heads(x[i], r, n, num_heads).flatten(0, 1)
                    for x, r in ((q, asked), (k, rows), (v, rows), (grad, asked))
                )
                grad_c = grad_c * first.view(G, 1, T, 1)[tiles].expand(n, num_heads, T, 1).reshape(-1, T, 1)
                bias_c = bias[tiles].expand(n, num_heads, T, M).reshape(-1, T, M)
                weights = torch.softmax(torch.baddbmm(bias_c, q_c, k_c.transpose(1, 2), alpha=scale), 2)
                grad_weights = torch.bmm(grad_c, v_c.transpose(1, 2))
                dot = (weights * grad_weights).sum(2, keepdim=True)
                grad_logits = grad_weights.sub_(dot).mul_(weights)
                grad_bias[tiles] += grad_logits.view(n, num_heads, T, M).sum_to_size(grad_bias[tiles].shape)
                _add_heads(grad_q[i], asked, torch.bmm(grad_logits, k_c).mul_(scale), num_heads)
                _add_heads(grad_k[i], rows, torch.bmm(grad_logits.transpose(1, 2), q_c).mul_(scale), num_heads)
                _add_heads(grad_v[i], rows, torch.bmm(weights.transpose(1, 2), grad_c), num_heads)
        return grad_q, grad_k, grad_v, grad_bias, None, None, None, None, None
