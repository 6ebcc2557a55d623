"""Fixed positions: the formula, the order of axes, and the table that is kept."""

import math

import pytest
import torch

from backbones.layers.functional import sincos, sincos_grid

CPU = torch.device("cpu")


def test_sines_then_cosines():
    x = sincos(torch.tensor([0.0, 2.0]), 6)
    angles = [2 * 10000 ** (-i / 3) for i in range(3)]
    expected = [[0.0] * 3 + [1.0] * 3, [*map(math.sin, angles), *map(math.cos, angles)]]
    torch.testing.assert_close(x, torch.tensor(expected))


def test_grid_has_frame_then_column_then_row():
    table = sincos_grid(3, 4, 5, 32, CPU)
    assert table.shape == (3, 4, 5, 32) and table.dtype == torch.float32
    for f, h, w in ((0, 0, 0), (2, 3, 1), (1, 0, 4)):
        parts = [sincos(torch.tensor(float(at), dtype=torch.float64), d) for at, d in ((f, 8), (w, 12), (h, 12))]
        torch.testing.assert_close(table[f, h, w], torch.cat(parts).float())
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        sincos_grid(1, 2, 2, 24, CPU)
