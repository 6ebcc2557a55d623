"""Tensors become the files that are meant."""

import numpy as np
import torch
from PIL import Image

from backbones.diffusion import draw_grid, to_image, write_video


def test_levels():
    pixels = torch.tensor([-2.0, -1, 0, 1, 2]).view(1, 1, 5)
    assert np.array(to_image(pixels)).tolist() == [[0, 0, 128, 255, 255]]
    coloured = torch.stack([torch.full((2, 3), level) for level in (-1.0, 0.0, 1.0)])
    assert to_image(coloured).mode == "RGB" and np.array(to_image(coloured)).shape == (2, 3, 3)
    assert np.array(to_image(coloured))[1, 2].tolist() == [0, 128, 255]


def test_grid_runs_row_by_row():
    levels = torch.linspace(-1, 1, 6).view(6, 1, 1, 1)
    grid = np.array(draw_grid(levels.expand(6, 1, 64, 80), columns=3).convert("L"))
    assert grid.shape == (2 * 68 + 4, 3 * 84 + 4)
    found = [grid[4 + 32 + 68 * row, 4 + 40 + 84 * column] for row in range(2) for column in range(3)]
    assert found == [0, 51, 102, 153, 204, 255]


def test_small_pictures_are_enlarged():
    assert draw_grid(torch.zeros(2, 1, 8, 8), columns=2).size == (2 * 68 + 4, 68 + 4)


def test_video(tmp_path):
    frames = [to_image(torch.full((3, 8, 8), level)) for level in (-1.0, 0.0, 1.0)]
    write_video(frames, tmp_path / "a.gif", frames_per_second=10)
    with Image.open(tmp_path / "a.gif") as video:
        assert video.n_frames == 3 and video.info["duration"] == 100 and video.info["loop"] == 0
        levels = []
        for i in range(3):
            video.seek(i)
            levels.append(video.convert("L").getpixel((4, 4)))
    np.testing.assert_allclose(levels, [0, 128, 255], atol=2)
