"""How an operation runs fast. Knows no family and no paper.

Blocks take ``sequential`` and the few operations below, each with an equal plain form, and ask nothing about devices,
gradient modes or hooks: ``machine.py`` says how a choice is made, ``planner.py`` what is fused.
"""

from backbones.kernels.attention import fused_attention
from backbones.kernels.deformable import deformable_conv
from backbones.kernels.dynamic_conv import dynamic_depthwise
from backbones.kernels.halo import halo_attention
from backbones.kernels.layout import to_nchw, to_nhwc
from backbones.kernels.machine import (
    Machine,
    current_machine,
    has_fast_kernels,
    set_fast_kernels,
    use_fast_kernels,
    use_machine,
)
from backbones.kernels.memory import by_images, keep_freed_memory, keep_small_blocks
from backbones.kernels.planner import gated, glu, matmul, register_layer, sequential, shortcut
from backbones.kernels.rows import sum_rows
from backbones.kernels.tiles import tiled_attention

__all__ = [
    "Machine",
    "by_images",
    "current_machine",
    "deformable_conv",
    "dynamic_depthwise",
    "fused_attention",
    "gated",
    "glu",
    "halo_attention",
    "has_fast_kernels",
    "keep_freed_memory",
    "matmul",
    "register_layer",
    "sequential",
    "set_fast_kernels",
    "shortcut",
    "sum_rows",
    "tiled_attention",
    "to_nchw",
    "to_nhwc",
    "use_fast_kernels",
    "use_machine",
]

if has_fast_kernels():
    keep_small_blocks()
