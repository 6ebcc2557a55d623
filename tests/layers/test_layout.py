"""The two views of a map."""

import torch

from backbones.layers import to_nchw, to_nhwc


def test_views_share_memory_and_are_inverse() -> None:
    x = torch.randn(2, 3, 5, 4)
    y = to_nchw(x)
    assert y.shape == (2, 4, 3, 5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.data_ptr() == x.data_ptr()
    assert torch.equal(to_nhwc(y), x) and to_nhwc(y).is_contiguous()
