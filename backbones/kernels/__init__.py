"""How an operation runs fast. Knows no family and no paper."""

from backbones.kernels.dynamic_conv import dynamic_depthwise
from backbones.kernels.layout import to_nchw, to_nhwc
from backbones.kernels.sequential import sequential, shortcut

__all__ = ["dynamic_depthwise", "sequential", "shortcut", "to_nchw", "to_nhwc"]
