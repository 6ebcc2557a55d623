"""What every pixel of a grid attends to, drawn beforehand, for a page on which one clicks a pixel.

A sprite is one PNG of a layer and image: for each pixel of the grid, in rows and columns, what it attends to, above
each other the mean of the heads and the heads. Colours go from 0 to the highest weight of the part, so that a page has
to cut and to place them, no more: a file that was opened from a disk may not read the values of a picture.
"""

import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image

from backbones.evaluation.attention import PixelAttention
from backbones.evaluation.drawing import HEAT

__all__ = ["write_sprite"]

SIDE = 56  # rows and columns of a part, at most; larger maps are averaged
LARGEST = 2_000_000  # pixels of a sprite


def chosen_pixels(size: tuple[int, int], rows: int, columns: int) -> list[tuple[int, int]]:
    """Row and column of the pixels in the middle of the cells of a grid over a map."""
    H, W = size
    return [
        ((2 * i + 1) * H // (2 * rows), (2 * j + 1) * W // (2 * columns)) for i in range(rows) for j in range(columns)
    ]


def grid_of(size: tuple[int, int], parts: int) -> tuple[int, int]:
    """Rows and columns of the finest grid of a map, of all its pixels at best, whose sprite is not too large."""
    H, W = size
    pixels = parts * min(H, SIDE) * min(W, SIDE)
    share = min(1.0, (LARGEST / (pixels * H * W)) ** 0.5)
    return max(1, int(H * share)), max(1, int(W * share))


def write_sprite(attention: PixelAttention, path: str | os.PathLike, heads: int) -> dict[str, Any]:
    """Write the sprite of a layer.

    Args:
        attention: Of one layer and image.
        path: A PNG.
        heads: So many heads are shown beside their mean; a single one is its own mean.

    Returns:
        ``grid`` (rows and columns), ``part`` (rows and columns of what a pixel attends to), ``heads`` (their names, in
        order, of what stands above each other in a cell of the grid), ``at`` (where the pixels of the grid are, as
        fractions of width and height), ``highest`` (the highest weight of each part of each cell, in percent).
    """
    count = attention.heads[1] - attention.heads[0]
    names = [f"head {attention.heads[0] + h}" for h in range(min(count, heads))]
    names = ["mean", *names] if count > 1 else names
    H, W = attention.size
    part = min(H, SIDE), min(W, SIDE)
    rows, columns = grid_of(attention.size, len(names))
    places = chosen_pixels(attention.size, rows, columns)
    sprite = np.zeros((rows, len(names), part[0], columns, part[1]), np.uint8)
    highest = []
    for n, (y, x) in enumerate(places):
        weights = attention.of(y * W + x).cpu()
        if count > 1:
            weights = torch.cat([weights.mean(0, keepdim=True), weights[:heads]])
        highest.append([round(100 * float(w), 2) for w in weights.amax((1, 2))])
        weights = weights if part == (H, W) else F.adaptive_avg_pool2d(weights, part)
        scaled = weights / weights.amax((1, 2), keepdim=True).clamp(min=1e-12)
        sprite[n // columns, :, :, n % columns] = (scaled * 255).round().byte().numpy()
    image = Image.fromarray(sprite.reshape(rows * len(names) * part[0], columns * part[1]), "P")
    image.putpalette((colormaps[HEAT](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    image.save(path, optimize=True)
    at = [[round((x + 0.5) / W, 4), round((y + 0.5) / H, 4)] for y, x in places]
    return {"grid": [rows, columns], "part": list(part), "heads": names, "at": at, "highest": highest}
