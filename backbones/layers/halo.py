"""Blocked local attention with a halo (Vaswani et al., arXiv:2103.12731, sections 2.2 and 3)."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from backbones.kernels import halo_attention, sequential, to_nchw, to_nhwc
from backbones.layers.window import crop, pad_to_multiple


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
        self.q = nn.Linear(dim, dim, bias=False, **dd)
        self.kv = nn.Linear(dim, dim + dim_v, bias=False, **dd)  # key and value of head 0, of head 1, ...
        self.height_rel = nn.Parameter(torch.empty(2 * side - 1, self.head_dim, **dd))
        self.width_rel = nn.Parameter(torch.empty(2 * side - 1, self.head_dim, **dd))
        self.reset_parameters()

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

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        x = pad_to_multiple(x, self.block_size)  # there is no bias, so keys and values of padding are zero
        q = sequential(x[:, :: self.query_stride, :: self.query_stride], self.q)
        kv = sequential(x, self.kv)
        sizes = self.num_heads, self.block_size, self.halo_size
        out = halo_attention(q, kv, *self.relative_rows(), *sizes)
        if self.query_stride == 2:
            H, W = (H + 1) // 2, (W + 1) // 2
        out = crop(out, H, W)
        if self.pool:
            out = to_nhwc(F.avg_pool2d(to_nchw(out), 2, ceil_mode=True, count_include_pad=False))
        return out
