"""Plain multi-head attention of tokens, to themselves or to others."""

from torch import Tensor, nn

from backbones.layers.attention import attend
from backbones.layers.linear import Linear


class MultiHeadAttention(nn.Module):
    """Multi-head attention with projections of queries, keys, values and result, all with bias.

    x: (B, N, dim), context: (B, M, dim) or None for ``x`` itself, bias: broadcastable to (B, nh, N, M)
    -> (B, N, dim). Cost: N * M * dim twice, beside the projections.

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
        self.q = Linear(dim, dim, **dd)
        self.k = Linear(dim, dim, **dd)
        self.v = Linear(dim, dim, **dd)
        self.proj = Linear(dim, dim, **dd)

    def heads(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """What the heads give, before it is projected: (B, N, dim)"""
        context = x if context is None else context
        return attend(self.q(x), self.k(context), self.v(context), self.num_heads, bias)

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return self.proj(self.heads(x, context, bias))
