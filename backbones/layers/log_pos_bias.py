"""Continuous position bias from log-spaced coordinates (Shi, "TransNeXt", arXiv:2311.17132, section 3.3)."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers.adaptive_pool import adaptive_bins
from backbones.layers.tables import kept_by_size


@kept_by_size
def relative_positions(size: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """How far the positions of an axis are from the centres of its adaptive bins (means of the positions in a bin).

    Distances are multiples of one step: 1 where all bins are alike, else 1/2, which in a traced program serves all.

    Returns: Distances in ascending order (n,), and which of them is that of each position and bin (size, bins).
    """
    position = torch.arange(size, device=device, dtype=torch.float32)
    centre = (adaptive_bins(size, bins, device) @ position[:, None])[:, 0]
    if not torch.compiler.is_compiling() and size % bins == 0:
        step, lowest, count = 1.0, -centre[-1], 2 * size - size // bins
    else:
        step, lowest, count = 0.5, 1 - size, 4 * size - 3
    index = ((position[:, None] - centre - lowest) / step).round().long()
    return lowest + step * torch.arange(count, device=device), index


@register_notrace_module
class LogPositionBias(nn.Module):
    """A bias for every pair of pixel and pooled pixel: an MLP of their distance, on a logarithmic scale.

    (H, W), (h, w) -> (nh, H * W, h * w), h and w at most H and W: pooled pixels are adaptive means of pixels. The MLP
    runs once for each distinct distance.

    On another map than that of pre-training the network meets distances that it hasn't seen (extrapolation). With
    ``map_size`` and ``pooled_size`` it computes the bias for a map of that size instead, which is then resized,
    bilinearly, first along the pooled pixels (interpolation).
    Cost: (nh + 2) * hidden_dim for each distinct distance.

    Args:
        num_heads: Heads.
        pretrain_side: Side of the map in pre-training, in pixels: distances are relative to it.
        map_size: Side of the map whose bias is resized, None for the map itself.
        pooled_size: Side of the pooled map there.
        hidden_dim: Width of the MLP.
    """

    def __init__(
        self,
        num_heads: int,
        pretrain_side: int,
        map_size: int | None = None,
        pooled_size: int | None = None,
        hidden_dim: int = 512,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.pretrain_side = pretrain_side
        self.map_size = map_size
        self.pooled_size = pooled_size
        self.fc1 = nn.Linear(2, hidden_dim, **dd)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden_dim, num_heads, **dd)

    def compute(self, H: int, W: int, h: int, w: int, like: Tensor) -> Tensor:
        """The bias of a map itself: (nh, H, W, h, w)"""
        (y, rows), (x, columns) = (relative_positions(*sizes, like.device) for sizes in ((H, h), (W, w)))
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1) * (8 / (self.pretrain_side - 1))
        grid = grid.sign() * torch.log2(1 + grid.abs()) / 3
        table = sequential(grid.to(like.dtype), self.fc1, self.act, self.fc2)  # (rows, columns, nh)
        return table.movedim(-1, 0)[:, rows[:, None, :, None], columns[None, :, None, :]]

    def forward(self, H: int, W: int, h: int, w: int, like: Tensor) -> Tensor:
        """``like`` is of the type and on the device that is wanted."""
        if self.map_size is None or self.pooled_size is None:
            return self.compute(H, W, h, w, like).flatten(3).flatten(1, 2)
        side, pooled = self.map_size, self.pooled_size
        bias = self.compute(side, side, pooled, pooled, like)
        bias = F.interpolate(bias.flatten(1, 2), (h, w), mode="bilinear").flatten(2)  # (nh, side^2, h * w)
        bias = bias.transpose(1, 2).unflatten(2, (side, side))
        return F.interpolate(bias, (H, W), mode="bilinear").flatten(2).transpose(1, 2)
