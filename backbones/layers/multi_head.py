"""Plain multi-head attention of tokens, to themselves or to others (Vaswani et al., arXiv:1706.03762)."""

from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers.attention import attend


class MultiHeadAttention(nn.Module):
    """Multi-head attention with projections of queries, keys, values and result, all with bias.

    x: (B, N, dim), context: (B, M, dim) or None for ``x`` itself, bias: broadcastable to (B, nh, N, M)
    -> (B, N, dim). Of tokens in windows (B, P, n, dim) each window is by itself, with a bias to (B * P, nh, n, n).
    Cost: N * M * dim twice, beside the projections.

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
        self.k = nn.Linear(dim, dim, **dd)
        self.v = nn.Linear(dim, dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = sequential(x, self.q), sequential(context, self.k), sequential(context, self.v)
        attended = attend(q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3), self.num_heads, bias)
        return sequential(attended.view(q.shape), self.proj)  # layers see the batch first
