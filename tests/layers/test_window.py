"""Window helpers against slices, and each against its inverse."""

import pytest
import torch

from backbones.layers import halo_partition, pad_to_multiple, window_partition, window_unpartition


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


@pytest.mark.parametrize("halo", [0, 1, 3])
@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
def test_halos_are_slices_of_the_padded_map(size: tuple[int, int], halo: int) -> None:
    x = torch.randn(2, *size, 5)
    padded = torch.zeros(2, size[0] + 2 * halo, size[1] + 2 * halo, 5)
    padded[:, halo : halo + size[0], halo : halo + size[1]] = x
    side = 4 + 2 * halo
    slices = [
        image[i : i + side, j : j + side].reshape(side * side, 5)
        for image in padded
        for i in range(0, size[0], 4)
        for j in range(0, size[1], 4)
    ]
    windows = halo_partition(x, 4, halo, 1)
    assert torch.equal(windows.reshape(len(slices), side * side, 5), torch.stack(slices))
