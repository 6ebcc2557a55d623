"""Adaptive average pooling as products of matrices, so that a traced program serves every size."""

import torch
from torch import Tensor

from backbones.layers.tables import kept_by_size


@kept_by_size
def adaptive_bins(size: int, bins: int, device: torch.device) -> Tensor:
    """What each of ``size`` positions adds to the mean of each adaptive bin: (bins, size), rows that sum to 1.

    Bin j goes from floor(j * size / bins) to ceil((j + 1) * size / bins), as in PyTorch: bins overlap by one position
    where ``bins`` does not divide ``size``. Kept for the sizes last asked for.
    """
    position = torch.arange(size, device=device)
    bin = torch.arange(bins, device=device)[:, None]
    inside = (position >= bin * size // bins) & (position < ((bin + 1) * size + bins - 1) // bins)
    return inside / inside.sum(1, keepdim=True)


def adaptive_pool(x: Tensor, height: int, width: int) -> Tensor:
    """``F.adaptive_avg_pool2d`` of a map. x: (B, H, W, C) -> (B, height, width, C)"""
    B, H, W, C = x.shape
    rows, columns = (adaptive_bins(size, bins, x.device).to(x.dtype) for size, bins in ((H, height), (W, width)))
    x = torch.matmul(rows, x.reshape(B, H, W * C)).view(B * height, W, C)
    return torch.matmul(columns, x).view(B, height, width, C)
