"""The common block library: flat, one idea a file.

Shapes, the same everywhere: B batch, H and W sides of a map in its own pixels, C channels, N tokens (N = H * W), nh heads,
d width of a head, ws side of a window, nW windows of an image. A feature map is (B, H, W, C) and contiguous, which is
the memory of a channels-last (B, C, H, W) tensor, so either view is free (``layout``).
"""

from backbones.layers.attention import attend, merge_heads, split_heads
from backbones.layers.channel_group import ChannelGroupAttention
from backbones.layers.deformable import DeformableConv, DeformableMerging
from backbones.layers.depthwise import DepthwiseConv
from backbones.layers.head import ClassifierHead
from backbones.layers.hilo import HiLoAttention
from backbones.layers.kernels import set_fast_kernels, use_fast_kernels
from backbones.layers.large_kernel import LargeKernelAttention
from backbones.layers.layout import to_nchw, to_nhwc
from backbones.layers.linear import Linear, linear
from backbones.layers.mlp import ConvMlp, Mlp
from backbones.layers.patch_embed import PatchEmbed
from backbones.layers.pos_embed import ConvPosEnc
from backbones.layers.self_guided import HybridAttention, LePEAttention, SelfGuidedAttention, TokenMerge
from backbones.layers.window import pad_to_multiple, window_partition, window_unpartition
from backbones.layers.window_attention import WindowAttention

__all__ = [
    "ChannelGroupAttention",
    "ClassifierHead",
    "ConvMlp",
    "ConvPosEnc",
    "DeformableConv",
    "DeformableMerging",
    "DepthwiseConv",
    "HiLoAttention",
    "HybridAttention",
    "LargeKernelAttention",
    "LePEAttention",
    "Linear",
    "Mlp",
    "PatchEmbed",
    "SelfGuidedAttention",
    "TokenMerge",
    "WindowAttention",
    "attend",
    "linear",
    "merge_heads",
    "pad_to_multiple",
    "set_fast_kernels",
    "split_heads",
    "to_nchw",
    "to_nhwc",
    "use_fast_kernels",
    "window_partition",
    "window_unpartition",
]
