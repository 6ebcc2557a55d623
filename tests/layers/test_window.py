"""Window helpers against slices, and each against its inverse."""

import pytest
import torch

from backbones.layers.functional import pad_to_multiple, window_partition, window_unpartition


@pytest.mark.parametrize(
    ("size", "padded"), [((8, 12), (8, 12)), ((7, 12), (8, 12)), ((1, 5), (4, 8)), ((4, 9), (4, 12))]
)
def test_padding_is_at_the_bottom_and_right(size: tuple[int, int], padded: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 3)
    y = pad_to_multiple(x, 4)
    assert y.shape == (2, *padded, 3)
    assert torch.equal(y[:, : size[0], : size[1]], x)
    assert not y[:, size[0] :].any() and not y[:, :, size[1] :].any()
    if size == padded:
        assert y is x


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (4, 20)])
def test_windows_are_slices_in_raster_order(size: tuple[int, int]) -> None:
    x = torch.randn(3, *size, 5)
    windows = window_partition(x, 4)
    slices = [
        image[i : i + 4, j : j + 4].reshape(16, 5)
        for image in x
        for i in range(0, size[0], 4)
        for j in range(0, size[1], 4)
    ]
    assert torch.equal(windows, torch.stack(slices))
    assert torch.equal(window_unpartition(windows, 4, *size), x)
