"""How an operation runs fast. Knows no family and no paper."""

from backbones.kernels.layout import to_nchw, to_nhwc
from backbones.kernels.sequential import sequential, shortcut

__all__ = ["sequential", "shortcut", "to_nchw", "to_nhwc"]
