"""Aggregated attention of TransNeXt (Shi, arXiv:2311.17132, section 3), and its global form."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.kernels.double_backward import differentiable_gradients
from backbones.kernels.machine import in_float32, use_fast_path
from backbones.layers.adaptive_pool import adaptive_pool
from backbones.layers.attention import merge_heads, split_heads
from backbones.layers.head_gate import HeadGate, gate_heads
from backbones.layers.log_pos_bias import LogPositionBias
from backbones.layers.neighborhood import neighborhood_tiles, tile_attention
from backbones.layers.tables import kept_by_size

_OFFSETS = [(y, x) for y in range(3) for x in range(3)]  # of the neighbours, in the order of their weights


@kept_by_size
def neighbor_count(H: int, W: int, device: torch.device) -> Tensor:
    """How many pixels of the 3x3 around each are in the map: (H, W, 1)"""
    rows, columns = (
        3 - (i == 0).int() - (i == side - 1).int() for side in (H, W) for i in (torch.arange(side, device=device),)
    )
    return (rows[:, None] * columns).unsqueeze(-1)


def _windows(x: Tensor) -> list[Tensor]:
    """Views of a map that has a border of one pixel, one a neighbour."""
    H, W = x.shape[1] - 2, x.shape[2] - 2
    return [x[:, y : y + H, x_ : x_ + W] for y, x_ in _OFFSETS]


def _border(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0) * (x.ndim - 3) + (1, 1, 1, 1))


def _plain_mix(weights: Tensor, v: Tensor) -> Tensor:
    pairs = zip(_windows(_border(v)), weights.unbind(-1), strict=True)
    return torch.stack([window * weight.unsqueeze(-1) for window, weight in pairs]).sum(0)


class _NeighborMix(torch.autograd.Function):
    """``neighbor_mix``, one neighbour after the other without a copy of any in the backward pass either."""

    @staticmethod
    def forward(weights: Tensor, v: Tensor) -> Tensor:
        out = torch.zeros_like(v)
        for window, weight in zip(_windows(_border(v)), weights.unbind(-1), strict=True):
            out.addcmul_(window, weight.unsqueeze(-1))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        weights, v = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return differentiable_gradients(_plain_mix, (weights, v), ctx.needs_input_grad, grad)
        v = _border(v)
        grad_v, grad_weights = torch.zeros_like(v), torch.empty_like(weights)
        for t, (window, grad_window) in enumerate(zip(_windows(v), _windows(grad_v), strict=True)):
            torch.sum(grad * window, -1, out=grad_weights[..., t])
            grad_window.addcmul_(grad, weights[..., t, None])
        return grad_weights, grad_v[:, 1:-1, 1:-1]


def neighbor_mix(weights: Tensor, v: Tensor) -> Tensor:
    """Sum over the 3x3 neighbours of each pixel of a weight times their values, which are zero outside the map.

    weights: (B, H, W, nh, 9), v: (B, H, W, nh, d) -> (B, H, W, nh, d)
    """
    return in_float32(_NeighborMix.apply, weights, v) if use_fast_path(v, weights) else _plain_mix(weights, v)


class CosineAttention(nn.Module):
    """What the aggregated and the global form share: cosine attention with a learnt temperature and query."""

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1, **dd))
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, self.head_dim, **dd))

    def reset_parameters(self) -> None:
        """Temperatures become 1 / 0.24, the query embedding a truncated normal, std 0.02."""
        nn.init.constant_(self.temperature, math.log(math.expm1(1 / 0.24)))
        trunc_normal_(self.query_embedding, std=0.02)

    def normalize(self, x: Tensor) -> Tensor:
        """Divide each head by its length. x: (..., dim) -> (..., dim)"""
        return F.normalize(x.unflatten(-1, (self.num_heads, self.head_dim)), dim=-1).flatten(-2)

    def scaled(self, q: Tensor, count: Tensor | float) -> Tensor:
        """Queries times temperature and logarithm of the number of keys. q: (..., dim), normalised -> (..., dim)"""
        scale = F.softplus(self.temperature).expand(-1, 1, self.head_dim).flatten()
        return (q + self.query_embedding.flatten()) * scale * count


@register_notrace_module
class AggregatedAttention(CosineAttention):
    """Each pixel attends, in one softmax, to its 3x3 neighbours and to a pooled map of the whole image.

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W; the pooled map has floor(H / sr_ratio) rows, at least one, and
    what is outside the map is masked. Cost, beside the projections: N * (9 + N / sr_ratio^2) * dim twice.

    Queries and keys are divided by their length; the logits are scaled by a temperature and by the logarithm of the
    number of keys. Neighbours have a learnt bias, pooled pixels that of ``LogPositionBias``. After the softmax,
    weights of the neighbours that come from the query alone ("learnable tokens") are added.

    Args:
        dim: Channels.
        num_heads: Heads.
        sr_ratio: Side of the pooled pixels, in pixels of the map.
        pretrain_side: Side of the map in pre-training, for the position bias.
        map_size: Side of the map whose position bias is resized; None makes the bias of each map itself.
        gate: ``HeadGate`` whose gates multiply the heads, or None.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        pretrain_side: int,
        map_size: int | None = None,
        gate: HeadGate | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, **dd)
        self.sr_ratio = sr_ratio
        self.rpb = nn.Parameter(torch.empty(num_heads, 9, **dd))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, self.head_dim, 9, **dd))
        self.learnable_bias = nn.Parameter(torch.empty(num_heads, 1, 9, **dd))
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = nn.Linear(dim, 2 * dim, **dd)
        self.sr = nn.Linear(dim, dim, **dd)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(dim, **dd)
        pooled = None if map_size is None else max(1, map_size // sr_ratio)
        self.pos_bias = LogPositionBias(num_heads, pretrain_side, map_size, pooled, **dd)
        self.gate = gate
        self.proj = nn.Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As ``CosineAttention``; truncated normal for tokens (0.02) and biases (0.0004) of neighbours."""
        super().reset_parameters()
        trunc_normal_(self.rpb, std=0.0004)
        trunc_normal_(self.learnable_tokens, std=0.02)
        nn.init.zeros_(self.learnable_bias)

    def token_weights(self, q: Tensor) -> Tensor:
        """What queries alone give their neighbours. q: (B, H, W, dim), normalised -> (B, H, W, nh, 9)"""
        heads = q.unflatten(-1, (self.num_heads, self.head_dim)).flatten(0, 2).transpose(0, 1)  # (nh, B * H * W, d)
        tokens, bias = self.learnable_tokens.to(q.dtype), self.learnable_bias.to(q.dtype)
        weights = torch.baddbmm(bias, heads, tokens).transpose(0, 1)
        return weights.reshape(*q.shape[:3], self.num_heads, 9)  # copies: ``neighbor_mix`` reads them row by row

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim); copies the map: attention does, and so do views of its parts."""
        B, H, W, _ = x.shape
        most = torch.sym_max if torch.compiler.is_compiling() else max
        h, w = (most(side // self.sr_ratio, 1) for side in (H, W))
        q = self.normalize(sequential(x, self.q))
        k, v = sequential(x, self.kv).chunk(2, dim=-1)
        pooled = sequential(adaptive_pool(sequential(x, self.sr, self.act), h, w), self.norm, self.kv)
        pooled_k, pooled_v = pooled.flatten(1, 2).chunk(2, dim=-1)
        count = torch.log((neighbor_count(H, W, x.device) + h * w).to(q.dtype))
        y = tile_attention(
            self.scaled(q, count),
            self.normalize(k),
            v,
            self.num_heads,
            neighborhood_tiles(H, W, 3, cut=True, device=x.device),
            self.rpb.view(-1, 3, 3),
            scale=1.0,
            extra=(self.normalize(pooled_k), pooled_v, self.pos_bias(H, W, h, w, q)),
        )
        y = y.unflatten(-1, (self.num_heads, self.head_dim))
        y = y + neighbor_mix(self.token_weights(q), v.unflatten(-1, (self.num_heads, self.head_dim)))
        return sequential(gate_heads(self.gate, x, y.flatten(-2)), self.proj)


@register_notrace_module
class GlobalCosineAttention(CosineAttention):
    """Every pixel attends to every pixel: the form of aggregated attention for small maps.

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W. Cost, beside the projections: N^2 * dim twice. The arguments are
    those of ``AggregatedAttention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        pretrain_side: int,
        map_size: int | None = None,
        gate: HeadGate | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, **dd)
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.pos_bias = LogPositionBias(num_heads, pretrain_side, map_size, map_size, **dd)
        self.gate = gate
        self.proj = nn.Linear(dim, dim, **dd)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim); copies the map: attention does, and so do views of its parts."""
        B, H, W, C = x.shape
        q, k, v = sequential(x, self.qkv).flatten(1, 2).chunk(3, dim=-1)
        count = torch.log(q.new_ones(()) * (H * W))
        q, k = self.scaled(self.normalize(q), count), self.normalize(k)
        q, k, v = (split_heads(t, self.num_heads) for t in (q, k.to(q.dtype), v.to(q.dtype)))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.pos_bias(H, W, H, W, q), scale=1.0)
        y = gate_heads(self.gate, x, merge_heads(y).view(B, H, W, C))
        return sequential(y, self.proj)
