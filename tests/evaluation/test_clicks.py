"""Sprites of a page on which one clicks: every part of them is the attention of its pixel."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

import backbones
from backbones.evaluation.attention import PixelAttention, Scores, attention_maps, record
from backbones.evaluation.clicks import LARGEST, SIDE, grid_of, write_sprite
from backbones.evaluation.drawing import HEAT


def whole_map(H: int, W: int, heads: int) -> PixelAttention:
    torch.manual_seed(0)
    weights = torch.rand(1, heads, H * W, H * W).softmax(-1)
    every = torch.arange(H * W)[None]
    return PixelAttention("blocks.0", "whole map", 0, (0, heads), (H, W), Scores(weights), every, every)


def cut(path, about, cell: int, part: int) -> np.ndarray:
    """A part of a sprite, as numbers from 0 to 255."""
    with Image.open(path) as picture:
        values = np.asarray(picture)
    (_, columns), (h, w) = about["grid"], about["part"]
    top, left = (cell // columns * len(about["heads"]) + part) * h, cell % columns * w
    return values[top : top + h, left : left + w].astype(int)


def test_numbers_are_shown_as_colours(tmp_path):
    write_sprite(whole_map(2, 2, 1), tmp_path / "a.png", 6)
    with Image.open(tmp_path / "a.png") as picture:
        values, colours = np.asarray(picture), np.asarray(picture.convert("RGB"))
    expected = colormaps[HEAT](values)[..., :3] * 255
    np.testing.assert_allclose(colours, expected, atol=0.51)


@pytest.mark.parametrize("heads", [1, 3, 9])
def test_parts_are_the_weights_of_their_pixels(heads, tmp_path):
    attention = whole_map(3, 5, heads)
    about = write_sprite(attention, tmp_path / "a.png", 6)
    assert about["grid"] == [3, 5] and about["part"] == [3, 5]
    shown = min(heads, 6)
    assert about["heads"] == (["mean"] if heads > 1 else []) + [f"head {h}" for h in range(shown)]
    for pixel in range(15):
        weights = attention.of(pixel)
        assert about["at"][pixel] == pytest.approx([(pixel % 5 + 0.5) / 5, (pixel // 5 + 0.5) / 3], abs=1e-4)
        expected = [weights.mean(0), *weights[:shown]] if heads > 1 else [weights[0]]
        for part, values in enumerate(expected):
            assert about["highest"][pixel][part] == pytest.approx(100 * float(values.max()), abs=0.005)
            seen = cut(tmp_path / "a.png", about, pixel, part)
            np.testing.assert_allclose(seen, 255 * (values / values.max()).numpy(), atol=1.01)


def test_large_maps_are_averaged_and_of_few_pixels(tmp_path):
    H, W = 2 * SIDE, SIDE
    weights = torch.zeros(1, 1, H * W, 1)
    weights[0, 0] = 1
    # all look at the pixel in row 7, column 3
    attention = PixelAttention(
        "a", "one", 0, (0, 1), (H, W), Scores(weights), torch.arange(H * W)[None], torch.tensor([[7 * W + 3]])
    )
    about = write_sprite(attention, tmp_path / "a.png", 6)
    rows, columns = about["grid"]
    assert about["part"] == [SIDE, SIDE] and 10 < columns < rows < H
    assert about["at"][0][0] < 1 / columns and about["at"][-1][1] > 1 - 1 / rows
    for cell in (0, rows * columns - 1):
        assert [*zip(*np.nonzero(cut(tmp_path / "a.png", about, cell, 0)))] == [(3, 3)]


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (28, 40), (56, 56), (300, 200)])
@pytest.mark.parametrize("parts", [1, 7])
def test_no_sprite_is_too_large(size, parts):
    rows, columns = grid_of(size, parts)
    assert 1 <= rows <= size[0] and 1 <= columns <= size[1]
    assert rows * columns * parts * min(size[0], SIDE) * min(size[1], SIDE) <= LARGEST
    if size[0] <= 14:
        assert (rows, columns) == size  # every pixel


@pytest.mark.parametrize("name", backbones.list_models("test_*", task="classification"))
def test_every_layer_has_a_sprite(name, tmp_path):
    model = backbones.create_model(name).eval()
    with torch.no_grad(), record(model) as visits:
        model(torch.randn(1, 3, *model.pretrained_cfg["input_size"][1:]))
    for attention in attention_maps(visits, model.pretrained_cfg["input_size"][1:]):
        about = write_sprite(attention, tmp_path / "a.png", 2)
        for cell in range(0, len(about["at"]), 7):
            assert cut(tmp_path / "a.png", about, cell, 0).max() == 255
