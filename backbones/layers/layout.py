"""The two views of a feature map, where the blocks look for them."""

from backbones.kernels.layout import to_nchw, to_nhwc

__all__ = ["to_nchw", "to_nhwc"]
