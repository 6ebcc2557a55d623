"""What the blocks are made of: functions and tables, for blocks of your own."""

from backbones.kernels import to_nchw, to_nhwc
from backbones.layers.adaptive_pool import adaptive_bins, adaptive_pool
from backbones.layers.attention import attend, attend_heads, merge_heads, split_heads
from backbones.layers.conditions import class_labels, text_bias
from backbones.layers.head_gate import balance_loss, call_with_balance
from backbones.layers.modulation import modulate
from backbones.layers.neighborhood import Tiles, neighborhood_tiles, tile_attention
from backbones.layers.rope import rotary_table, rotate
from backbones.layers.sincos import sincos, sincos_grid
from backbones.layers.tables import kept_by_size
from backbones.layers.window import crop, pad_to_multiple, window_partition, window_unpartition
from backbones.layers.window_grid import WindowGrid, attention_bias, window_grid

__all__ = [
    "Tiles",
    "WindowGrid",
    "adaptive_bins",
    "adaptive_pool",
    "attend",
    "attend_heads",
    "attention_bias",
    "balance_loss",
    "call_with_balance",
    "class_labels",
    "crop",
    "kept_by_size",
    "merge_heads",
    "modulate",
    "neighborhood_tiles",
    "pad_to_multiple",
    "rotary_table",
    "rotate",
    "sincos",
    "sincos_grid",
    "split_heads",
    "text_bias",
    "tile_attention",
    "to_nchw",
    "to_nhwc",
    "window_grid",
    "window_partition",
    "window_unpartition",
]
