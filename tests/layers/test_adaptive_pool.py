"""Adaptive pooling by matrices against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.functional import adaptive_bins, adaptive_pool


@pytest.mark.parametrize(("height", "width"), [(4, 8), (5, 3), (1, 1), (13, 29), (14, 31)])  # of 13 x 29
def test_equals_pytorch(height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 13, 29, 4)
    expected = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)
    torch.testing.assert_close(adaptive_pool(x, height, width), expected)


def test_rows_are_means() -> None:
    bins = adaptive_bins(10, 4, torch.device("cpu"))
    assert [row.nonzero().flatten().tolist() for row in bins] == [[0, 1, 2], [2, 3, 4], [5, 6, 7], [7, 8, 9]]
    torch.testing.assert_close(bins.sum(1), torch.ones(4))
