"""Padding and windows of (B, H, W, C) maps, each helper with its inverse."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor


@register_notrace_function
def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad a map at the bottom and right to multiples of ``multiple`` pixels (copies only if it must).

    x: (B, H, W, C) -> (B, H', W', C). Inverse: ``x[:, :H, :W]``.
    """
    H, W = x.shape[1], x.shape[2]
    # Written so that a compiler sees H + pad_h as a multiple, and traced without a branch that would fix the size.
    pad_h = (H + multiple - 1) // multiple * multiple - H
    pad_w = (W + multiple - 1) // multiple * multiple - W
    if torch.compiler.is_compiling() or pad_h > 0 or pad_w > 0:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    return x


@register_notrace_function
def crop(x: Tensor, H: int, W: int) -> Tensor:
    """The top left H x W pixels of a map, a view: what undoes ``pad_to_multiple``.

    x: (B, H', W', ...) -> (B, H, W, ...)
    """
    if torch.compiler.is_compiling():  # whether a slice is the whole map would fix the size
        rows, columns = torch.arange(H, device=x.device), torch.arange(W, device=x.device)
        return x.index_select(1, rows).index_select(2, columns)
    return x[:, :H, :W]


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """Cut a map into windows (copies).

    x: (B, H, W, C), sides multiples of ``window_size`` -> (B * nW, ws * ws, C). Inverse: ``window_unpartition``.
    """
    B, H, W, C = x.shape
    x = x.reshape(B, H // window_size, window_size, W // window_size, window_size, C)
    return x.transpose(2, 3).reshape(-1, window_size * window_size, C)


def window_unpartition(windows: Tensor, window_size: int, H: int, W: int) -> Tensor:
    """Put windows back into a map of H x W, sides multiples of ``window_size`` (copies).

    windows: (B * nW, ws * ws, C) -> (B, H, W, C)
    """
    C = windows.shape[-1]
    x = windows.reshape(-1, H // window_size, W // window_size, window_size, window_size, C)
    return x.transpose(2, 3).reshape(-1, H, W, C)
