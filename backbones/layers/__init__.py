"""The common block library: flat, one idea a file.

Shapes, the same everywhere: B batch, H and W sides of a map in its own pixels, C channels, N tokens (N = H * W), nh
heads, d width of a head, ws side of a window, nW windows of an image. A feature map is (B, H, W, C) and contiguous,
which is the memory of a channels-last (B, C, H, W) tensor, so either view is free.

The blocks stand here; ``functional`` has the functions and tables that they are made of.
"""

from timm.layers import LayerScale

from backbones.kernels import register_layer
from backbones.layers.aggregated import AggregatedAttention, GlobalCosineAttention
from backbones.layers.attentive_conv import AttentiveConv
from backbones.layers.causal_rope import CausalRopeAttention
from backbones.layers.channel_group import ChannelGroupAttention
from backbones.layers.conditions import TextEmbed, TimeEmbed
from backbones.layers.conv_glu import ConvGLU
from backbones.layers.deformable import DeformableConv, DeformableMerging
from backbones.layers.halo import HaloAttention
from backbones.layers.head import ClassifierHead
from backbones.layers.head_gate import HeadGate
from backbones.layers.hilo import HiLoAttention
from backbones.layers.large_kernel import LargeKernelAttention
from backbones.layers.latent_embed import LatentEmbed
from backbones.layers.log_pos_bias import LogPositionBias
from backbones.layers.mlp import ConvMlp, Mlp, SwiGLU
from backbones.layers.modulation import BlockModulation, SharedModulation
from backbones.layers.multi_head import MultiHeadAttention
from backbones.layers.neighborhood import NeighborhoodAttention
from backbones.layers.patch_embed import PatchEmbed
from backbones.layers.pos_embed import ConvPosEnc
from backbones.layers.proxy_attention import ProxyTokenAttention
from backbones.layers.self_guided import HybridAttention, LePEAttention, SelfGuidedAttention, TokenMerge
from backbones.layers.super_token import SuperTokenAttention
from backbones.layers.window_attention import WindowAttention

register_layer(LayerScale, "scale")

__all__ = [
    "AggregatedAttention",
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
    "GlobalCosineAttention",
    "HaloAttention",
    "HeadGate",
    "HiLoAttention",
    "HybridAttention",
    "LargeKernelAttention",
    "LatentEmbed",
    "LePEAttention",
    "LogPositionBias",
    "Mlp",
    "MultiHeadAttention",
    "NeighborhoodAttention",
    "PatchEmbed",
    "ProxyTokenAttention",
    "SelfGuidedAttention",
    "SharedModulation",
    "SuperTokenAttention",
    "SwiGLU",
    "TextEmbed",
    "TimeEmbed",
    "TokenMerge",
    "WindowAttention",
]
