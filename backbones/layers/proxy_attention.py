"""Proxy-token attention (Wang et al., "Qihoo-T2X", arXiv:2409.04005, section 3.2)."""

import torch
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers.modulation import modulate
from backbones.layers.multi_head import MultiHeadAttention
from backbones.layers.window_grid import Triple, WindowGrid, attention_bias


class ProxyTokenAttention(nn.Module):
    """Means of windows attend to each other, and every token attends to the means: global, at a linear cost.

    x: (B, P, n, dim), tokens in windows -> (B, P, n, dim), what is to be added to ``x``. Cost, beside the projections
    of N = P * n tokens and M proxies: M^2 * dim and N * M * dim, each twice. The last projection starts at zero.

    Args:
        dim: Channels.
        num_heads: Heads.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attn = MultiHeadAttention(dim, num_heads, **dd)
        self.cross_attn = MultiHeadAttention(dim, num_heads, **dd)
        self.out = nn.Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zeros in the last projection."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, grid: WindowGrid, proxy_size: Triple, modulation: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor:
        """Shift, scale and gate of the proxies' attention, each (B, 1, dim), where ``modulation`` has them."""
        proxies, some = grid.window_means(x, proxy_size)  # (B, M, dim)
        bias = attention_bias(some, x)
        if modulation is None:
            proxies = proxies + self.attn(self.norm(proxies), bias=bias)
        else:
            shift, scale, gate = modulation
            proxies = torch.addcmul(proxies, gate, self.attn(modulate(self.norm(proxies), shift, scale), bias=bias))
        y = self.cross_attn(self.norm(x).flatten(1, 2), self.norm(proxies), bias)
        return sequential(y, self.out).view_as(x)
