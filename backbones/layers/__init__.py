"""The common block library: flat, one idea a file.

Shapes, the same everywhere: B batch, H and W sides of a map in its own pixels, C channels, N tokens (N = H * W), nh
heads, d width of a head, ws side of a window, nW windows of an image. A feature map is (B, H, W, C) and contiguous,
which is the memory of a channels-last (B, C, H, W) tensor, so either view is free (``layout``).
"""

from timm.layers import LayerScale

from backbones.kernels import register_layer, to_nchw, to_nhwc
from backbones.layers.adaptive_pool import adaptive_bins, adaptive_pool
from backbones.layers.attention import attend, attend_heads, merge_heads, split_heads
from backbones.layers.attentive_conv import AttentiveConv
from backbones.layers.causal_rope import CausalRopeAttention
from backbones.layers.channel_group import ChannelGroupAttention
from backbones.layers.conditions import TextEmbed, TimeEmbed, class_labels, text_bias
from backbones.layers.conv_glu import ConvGLU
from backbones.layers.deformable import DeformableConv, DeformableMerging
from backbones.layers.halo import HaloAttention
from backbones.layers.head import ClassifierHead
from backbones.layers.hilo import HiLoAttention
from backbones.layers.large_kernel import LargeKernelAttention
from backbones.layers.latent_embed import LatentEmbed
from backbones.layers.mlp import ConvMlp, Mlp, SwiGLU
from backbones.layers.modulation import BlockModulation, SharedModulation, modulate
from backbones.layers.multi_head import MultiHeadAttention
from backbones.layers.neighborhood import NeighborhoodAttention, Tiles, neighborhood_tiles, tile_attention
from backbones.layers.patch_embed import PatchEmbed
from backbones.layers.pos_embed import ConvPosEnc
from backbones.layers.proxy_attention import ProxyTokenAttention
from backbones.layers.rope import rotary_table, rotate
from backbones.layers.self_guided import HybridAttention, LePEAttention, SelfGuidedAttention, TokenMerge
from backbones.layers.sincos import sincos, sincos_grid
from backbones.layers.super_token import SuperTokenAttention
from backbones.layers.tables import kept_by_size
from backbones.layers.window import pad_to_multiple, window_partition, window_unpartition
from backbones.layers.window_attention import WindowAttention
from backbones.layers.window_grid import WindowGrid, attention_bias, window_grid

register_layer(LayerScale, "scale")

__all__ = [
    "AttentiveConv",
    "BlockModulation",
    "CausalRopeAttention",
    "ChannelGroupAttention",
    "ClassifierHead",
    "ConvGLU",
    "ConvMlp",
    "ConvPosEnc",
    "DeformableConv",
    "DeformableMerging",
    "HaloAttention",
    "HiLoAttention",
    "HybridAttention",
    "LargeKernelAttention",
    "LatentEmbed",
    "LePEAttention",
    "Mlp",
    "MultiHeadAttention",
    "NeighborhoodAttention",
    "PatchEmbed",
    "ProxyTokenAttention",
    "SelfGuidedAttention",
    "SharedModulation",
    "SuperTokenAttention",
    "SwiGLU",
    "Tiles",
    "TextEmbed",
    "TimeEmbed",
    "TokenMerge",
    "WindowAttention",
    "WindowGrid",
    "adaptive_bins",
    "adaptive_pool",
    "attend",
    "attend_heads",
    "attention_bias",
    "class_labels",
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
    "tile_attention",
    "text_bias",
    "to_nchw",
    "to_nhwc",
    "window_grid",
    "window_partition",
    "window_unpartition",
]
