"""The two views of a feature map: (B, H, W, C) inside models, (B, C, H, W) for convolutions. Neither copies."""

from torch import Tensor


def to_nchw(x: Tensor) -> Tensor:
    """View of a (B, H, W, C) map as a channels-last (B, C, H, W) tensor, as convolutions take it."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """View of a (B, C, H, W) tensor as (B, H, W, C); contiguous when ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1)
