"""The two views of a feature map. Both are free: (B, H, W, C) contiguous is the memory of a channels-last tensor."""

from torch import Tensor


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view; contiguous if ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1)
