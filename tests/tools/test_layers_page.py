"""The page of layers follows from the docstrings, and its pictures show what the blocks' papers say."""

import pytest
import torch

from tools import layers_page
from tools.layers_page import PAGE, PICTURE, PIXEL, SAMPLES, SIDE, blocks, describe, main, page, seen


def test_the_page_and_its_picture_are_current():
    assert main(["--check"]) == 0
    assert PICTURE.stat().st_size < 300_000


def test_a_stale_page_is_refused_and_written(tmp_path, monkeypatch):
    stale, picture = tmp_path / "layers.md", tmp_path / "pixels.png"
    stale.write_text(PAGE.read_text().replace("`HaloAttention`", "`HelloAttention`"))
    picture.write_bytes(PICTURE.read_bytes())
    monkeypatch.setattr(layers_page, "PAGE", stale)
    monkeypatch.setattr(layers_page, "PICTURE", picture)
    monkeypatch.setattr(layers_page, "FAMILIES", {})
    assert main(["--check"]) == 1
    monkeypatch.setattr(layers_page, "SAMPLES", {key: SAMPLES[key] for key in ("Mlp(16, 32)", "ConvPosEnc(16)")})
    assert main([]) == 0 and stale.read_text() == PAGE.read_text()
    assert main(["--check"]) == 1  # of the blocks on maps, most are not drawn


def test_docstrings_that_lack_something_are_named():
    class Silent(torch.nn.Module):
        """x: (B, N, C) -> (B, N, C)"""

    with pytest.raises(ValueError, match=r"the docstring of Silent lacks its shapes.* or \"Cost"):
        describe(Silent)
    with pytest.raises(ValueError, match="has no <!-- blocks -->"):
        page("# Layers\n")


def test_every_block_is_a_row():
    text = PAGE.read_text()
    assert len(blocks()) > 20
    assert all(f"| `{name}` |" in text for name in blocks())


def square(first_row: int, last_row: int, first_column: int, last_column: int) -> torch.Tensor:
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[max(first_row, 0) : last_row + 1, max(first_column, 0) : last_column + 1] = True
    return inside


ROW, COLUMN = PIXEL
RECEPTIVE_FIELDS = {
    "Mlp(16, 32)": square(ROW, ROW, COLUMN, COLUMN),
    "ConvPosEnc(16)": square(ROW - 1, ROW + 1, COLUMN - 1, COLUMN + 1),
    "LargeKernelAttention(16)": square(ROW - 11, ROW + 11, COLUMN - 11, COLUMN + 11),
    "WindowAttention(16, 2, window_size=7)": square(7, 13, 14, 20),
    "HaloAttention(16, 2, block_size=7, halo_size=3)": square(4, 16, 11, 23),
    "NeighborhoodAttention(16, 2, kernel_size=7)": square(ROW - 3, ROW + 3, COLUMN - 3, COLUMN + 3),
    "MultiHeadAttention(16, 2)": square(0, SIDE, 0, SIDE),
}


@pytest.mark.parametrize("sample", RECEPTIVE_FIELDS)
def test_what_a_pixel_sees(sample):
    assert torch.equal(seen(sample) > 0, RECEPTIVE_FIELDS[sample])
