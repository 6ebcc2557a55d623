"""Adaptive layer norm: shifts, scales and gates of a block made from what the network is conditioned on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift, for ``shift`` and ``scale`` that broadcast to ``x``."""
    return torch.addcmul(shift, x, 1 + scale)


class BlockModulation(nn.Module):
    """Vectors from a linear layer of the block's own. cond: (B, dim) -> (B, count, dim)

    It starts at zero, so that gated branches start closed. Cost: count * dim^2 a sample.

    Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv:2212.09748, section 3.2.

    Args:
        dim: Channels.
        count: Vectors.
    """

    def __init__(self, dim: int, count: int, device=None, dtype=None) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, count * dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, cond: Tensor) -> Tensor:
        return self.fc(F.silu(cond)).unflatten(1, (-1, cond.shape[1]))


class SharedModulation(nn.Module):
    """Vectors that all blocks share, plus a table of the block's own. shared: (B, n, dim) -> (B, count, dim)

    Cost: count * dim sums a sample.

    Source: Chen et al., "PixArt-alpha", arXiv:2310.00426, section 2.3 (there called adaLN-single).

    Args:
        dim: Channels.
        count: Vectors, at most n; the first ``count`` are taken.
    """

    def __init__(self, dim: int, count: int, device=None, dtype=None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(count, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with variance 1 / dim."""
        nn.init.normal_(self.table, std=self.table.shape[1] ** -0.5)

    def forward(self, shared: Tensor) -> Tensor:
        return self.table + shared[:, : self.table.shape[0]]
