"""Super token attention (Huang et al., "Vision Transformer with Super Token Sampling", CVPR 2023, section 3.2)."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers.attention import attend_heads, merge_heads
from backbones.layers.window import crop, pad_to_multiple, window_partition, window_unpartition


def shift(grid: Tensor, dy: int, dx: int) -> Tensor:
    """Move a grid so that cell (i, j) holds what was at (i + dy, j + dx); zero beyond the border.

    grid: (B, H, W, C) -> (B, H, W, C)
    """
    return F.pad(grid, (0, 0, -dx, dx, -dy, dy))


def gather_neighbours(grid: Tensor) -> Tensor:
    """The 3x3 cells around each cell of a grid, row by row; zero beyond the border.

    grid: (B, H, W, C) -> (B, H, W, 9 * C). Transpose: ``sum_from_neighbours``.
    """
    row = torch.cat([shift(grid, 0, -1), grid, shift(grid, 0, 1)], dim=-1)
    return torch.cat([shift(row, -1, 0), row, shift(row, 1, 0)], dim=-1)


def sum_from_neighbours(parts: Tensor) -> Tensor:
    """Each cell's sum of what the 3x3 cells around it hold for it; what is meant for beyond the border is lost.

    parts: (B, H, W, 9 * C) -> (B, H, W, C). Transpose of ``gather_neighbours``.
    """
    above, level, below = parts.chunk(3, dim=-1)
    row = shift(above, 1, 0) + level + shift(below, -1, 0)
    left, here, right = row.chunk(3, dim=-1)
    return shift(left, 0, 1) + here + shift(right, 0, -1)


@register_notrace_module
class SuperTokenAttention(nn.Module):
    """Multi-head self-attention among super tokens, each a weighted mean of pixels near one cell of a grid.

    x: (B, H, W, C) -> (B, H, W, C). Any H and W: padded with zeros at the bottom and right to multiples of
    ``cell_size``. Padding counts in a super token's weights and means, as in the reference, though it adds nothing to
    their sums. Cost: N * C * 9 three times for sampling, and with n = N / cell_size^2 super tokens n^2 * C twice and
    n * C^2 four times for the attention.

    A pixel belongs to the super tokens of the 3x3 cells around its own, with weights that are the softmax of its
    products with their means over sqrt(C) (all of C, not of a head). They are constants to the gradient. Cells beyond
    the border are zero vectors, not masked: they take a share of the softmax, so border pixels come out weaker.

    The rows of ``qkv`` are laid out ``[head][q | k | v][d]``, as published.

    Args:
        dim: Channels.
        num_heads: Heads.
        cell_size: Side of the cells in pixels of the map. With 1 every pixel is its own super token: plain attention.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads``, or ``cell_size`` is below 1.
    """

    def __init__(self, dim: int, num_heads: int, cell_size: int = 1, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        if cell_size < 1:
            raise ValueError(f"cell_size is a number of pixels from 1 up, got {cell_size}")
        self.num_heads = num_heads
        self.cell_size = cell_size
        self.scale = dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def attend_globally(self, x: Tensor) -> Tensor:
        """Self-attention of all positions of a map. x: (B, H, W, C) -> (B, H, W, C)"""
        B, H, W, C = x.shape
        qkv = sequential(x, self.qkv).view(B, H * W, self.num_heads, 3, C // self.num_heads)
        q, k, v = qkv.transpose(1, 2).unbind(3)  # (B, nh, N, d)
        x = merge_heads(attend_heads(q, k, v)).view(B, H, W, C)
        return sequential(x, self.proj)

    def associate(self, cells: Tensor, grid_h: int, grid_w: int) -> Tensor:
        """Weights of pixels for the super tokens around them.

        cells: (B * n, pixels, C), n = grid_h * grid_w -> (B * n, 9, pixels); they add up to 1 over the 9.
        """
        cells = cells.detach()
        C = cells.shape[-1]
        means = cells.mean(1).view(-1, grid_h, grid_w, C) * self.scale
        logits = gather_neighbours(means).view(-1, 9, C) @ cells.transpose(1, 2)
        return logits.softmax(1)  # several times faster than over the innermost dimension when that has 9 entries

    def association(self, x: Tensor) -> Tensor:
        """How far each pixel belongs to the super tokens around it, for pictures.

        x: (B, H, W, C) as ``forward`` takes it -> (B, H, W, 9). Entry k belongs to the cell k // 3 - 1 rows below and
        k % 3 - 1 columns right of the pixel's own, which is (row // cell_size, column // cell_size).
        """
        _, H, W, _ = x.shape
        x = pad_to_multiple(x, self.cell_size)
        _, padded_h, padded_w, _ = x.shape
        cells = window_partition(x, self.cell_size)
        weights = self.associate(cells, padded_h // self.cell_size, padded_w // self.cell_size)
        return crop(window_unpartition(weights.transpose(1, 2), self.cell_size, padded_h, padded_w), H, W)

    def forward(self, x: Tensor) -> Tensor:
        if self.cell_size == 1:
            return self.attend_globally(x)
        B, H, W, C = x.shape
        x = pad_to_multiple(x, self.cell_size)
        _, padded_h, padded_w, _ = x.shape
        grid_h, grid_w = padded_h // self.cell_size, padded_w // self.cell_size
        cells = window_partition(x, self.cell_size)  # (B * n, pixels, C)
        weights = self.associate(cells, grid_h, grid_w)

        sums = sum_from_neighbours((weights @ cells).view(B, grid_h, grid_w, 9 * C))
        total_weights = sum_from_neighbours(weights.sum(-1).view(B, grid_h, grid_w, 9))
        super_tokens = self.attend_globally(sums / total_weights)

        cells = weights.transpose(1, 2) @ gather_neighbours(super_tokens).view(-1, 9, C)
        return crop(window_unpartition(cells, self.cell_size, padded_h, padded_w), H, W)
