"""Fixed sines and cosines of positions and times (Vaswani et al., arXiv:1706.03762, section 3.5)."""

import torch
from torch import Tensor

from backbones.layers.tables import kept_by_size


def sincos(position: Tensor, dim: int, theta: float = 10000.0) -> Tensor:
    """Sines, then cosines, of ``position * theta^(-2i / dim)``, i = 0 ... dim / 2 - 1, in the type of ``position``.

    position: (...) -> (..., dim), ``dim`` even.
    """
    exponent = torch.arange(dim // 2, device=position.device, dtype=position.dtype) / -(dim // 2)
    angle = position[..., None] * theta**exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@kept_by_size
def sincos_grid(frames: int, height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Table of a grid's positions: a quarter of the channels for the frame, 3 / 8 each for column and row, in order.

    (frames, height, width, dim), float32, computed in float64 on the CPU (copies); kept for the sizes last asked for.

    Raises:
        ValueError: If ``dim`` is not a multiple of 16, so that some part would have an odd width.
    """
    if dim % 16:
        raise ValueError(f"positions in three dimensions need a width that is a multiple of 16, got {dim}")
    parts = []
    for axis, (count, part) in enumerate(((frames, dim // 4), (width, 3 * dim // 8), (height, 3 * dim // 8))):
        table = sincos(torch.arange(count, dtype=torch.float64, device="cpu"), part)
        shape = [1, 1, 1, part]
        shape[(0, 2, 1)[axis]] = count
        parts.append(table.view(shape).expand(frames, height, width, part))
    return torch.cat(parts, dim=-1).float().to(device)
