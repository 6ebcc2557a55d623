"""Tensors of pixels as files that a person can look at."""

import os
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

__all__ = ["draw_grid", "to_image", "write_video"]

VISIBLE = 64  # pixels of a side, below which a grid shows pictures enlarged


def _to_bytes(pixels: Tensor) -> np.ndarray:
    """(..., C, H, W) in [-1, 1] -> (..., H, W, C) in uint8"""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1).cpu().numpy()


def to_image(pixels: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1], one channel or three."""
    array = _to_bytes(pixels)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def draw_grid(pixels: Tensor, columns: int) -> Image.Image:
    """Pictures (N, C, H, W) in [-1, 1], row by row."""
    if (scale := -(-VISIBLE // pixels.shape[-1])) > 1:
        pixels = F.interpolate(pixels, scale_factor=scale, mode="bicubic")
    return to_image(make_grid(pixels.clamp(-1, 1), nrow=columns, padding=4, pad_value=0.0))


def write_video(frames: Sequence[Image.Image], path: str | os.PathLike, frames_per_second: float = 8.0) -> None:
    """Write frames as an animation that repeats: GIF or WebP, by the name's ending."""
    duration = round(1000 / frames_per_second)  # milliseconds
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
