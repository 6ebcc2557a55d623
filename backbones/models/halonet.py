"""HaloNet: a bottleneck pyramid like ResNet's with blocked local attention in the place of its 3x3 convolutions.

The queries of a block of b x b pixels share one neighbourhood of keys, the block and a halo of h pixels around it.
Positions enter through relative tables of height and width alone. Eight sizes, H0 to H7, are scaled like EfficientNet:
block, halo, value width, output width, depth of stage 3 and image size grow together.

Vaswani, Ramachandran, Srinivas, Parmar, Hechtman, Shlens, "Scaling Local Self-Attention for Parameter Efficient Visual
Backbones", CVPR 2021, arXiv:2103.12731. The authors published neither code nor weights, so there are no weights here.
What their text leaves open follows timm 1.0.31 (``halonet_h1``, whose author calls parts of it a guess), and H1 equals
timm's on the same weights:
- queries of a stride-2 block are every second pixel, beside keys of the full resolution; their relative position is
  key row - query row with both counted in pixels of their own map, not 2 * query row. If the block side is odd, the
  attention is followed by 2x2 average pooling instead.
- pixels outside the map are zero keys and values that are not masked, so they take part of the softmax.
- relative logits are not scaled by 1 / sqrt(d), there is no projection after the attention but a BatchNorm and ReLU.

Open in the paper and ours: ReLU everywhere; H1 has 8 heads in each stage as timm's, the other sizes heads of 16
channels, with which all eight parameter counts round to the paper's.

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows. A map that blocks do not divide, or that is smaller
than a block, is padded at the bottom and right, and this padding is treated like the pixels outside the map.
Differs from the reference: timm's takes multiples of 256 only.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, register_notrace_module, trunc_normal_
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc
from backbones.layers import ClassifierHead, HaloAttention
from backbones.layers.functional import pad_to_multiple
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["HaloNet", "HaloNetConfig"]


@dataclass(frozen=True, kw_only=True)
class HaloNetConfig:
    block_size: int = 8  # b of the paper, in pixels of each map
    halo_size: int = 3  # h
    v_ratio: float = 1.0  # r_v: width of the values relative to ``widths``
    out_ratio: float  # r_b: width of a block's output relative to ``widths``
    depths: tuple[int, ...]
    head_hidden_size: int = 0  # d_f: the map is projected to this width before pooling; 0 for none
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of queries and keys
    num_heads: tuple[int, ...] = (4, 8, 16, 32)

    @property
    def embed_dims(self) -> tuple[int, ...]:
        """Channels of each stage's map."""
        return tuple(int(width * self.out_ratio) for width in self.widths)


@register_notrace_module
class LinearNormAct(nn.Module):
    """1x1 convolution without bias -> BatchNorm -> ReLU, on maps.

    x: (B, H, W, dim) -> (B, ceil(H / stride), ceil(W / stride), out_features)

    Args:
        dim: Channels in.
        out_features: Channels out.
        stride: Pixels between outputs.
        act: Whether the ReLU is there.
    """

    def __init__(self, dim: int, out_features: int, stride: int = 1, act: bool = True, **dd: Any) -> None:
        super().__init__()
        self.out_features = out_features
        self.stride = stride
        self.conv = nn.Linear(dim, out_features, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_features, **dd)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        return sequential(x, self.conv, to_nchw, self.bn, to_nhwc, self.act)


class Stem(nn.Module):
    """7x7 convolution of stride 2 -> BatchNorm -> ReLU -> 3x3 max pooling of stride 2.

    x: (B, H, W, in_chans) -> (B, ceil(H / 4), ceil(W / 4), dim)
    """

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, 7, 2, padding=3, bias=False, **dd)
        self.bn = nn.BatchNorm2d(dim, **dd)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = sequential(to_nchw(x), self.conv, self.bn, self.act)
        if torch.compiler.is_compiling():
            # The shape rule of pooling branches on whether the size is odd. After a ReLU, padding with 0 is like -inf.
            x = to_nchw(pad_to_multiple(to_nhwc(x), 2))
            return to_nhwc(F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 3, 2))
        return to_nhwc(self.pool(x))


class Block(nn.Module):
    """Bottleneck: 1x1, halo attention, 1x1, each with BatchNorm; ReLU after each, the last with the shortcut added.

    x: (B, H, W, dim) -> (B, ceil(H / stride), ceil(W / stride), dim_out)
    """

    def __init__(self, cfg: HaloNetConfig, dim: int, index: int, stride: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        width, dim_out = cfg.widths[index], cfg.embed_dims[index]
        dim_v = int(width * cfg.v_ratio)
        self.shortcut: nn.Module = nn.Identity()
        if dim != dim_out or stride != 1:
            self.shortcut = LinearNormAct(dim, dim_out, stride, act=False, **dd)
        self.conv1 = LinearNormAct(dim, width, **dd)
        self.attn = HaloAttention(width, cfg.num_heads[index], cfg.block_size, cfg.halo_size, stride, dim_v=dim_v, **dd)
        self.norm = nn.BatchNorm2d(dim_v, **dd)
        self.conv2 = LinearNormAct(dim_v, dim_out, act=False, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = sequential(x, self.conv1, self.attn, to_nchw, self.norm, to_nhwc, self.act, self.conv2, self.drop_path)
        return self.act(y + self.shortcut(x))


class HaloNet(PyramidBackbone):
    """HaloNet: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2103.12731, section 3."""

    checkpoint_layouts = {
        # halonet_h1 of timm
        "timm": (
            ("stem.conv1.", "stem."),
            ("stages.{i}.{j}.", "stages.{i}.blocks.{j}."),
            (".conv1_1x1.", ".conv1."),
            (".self_attn.pos_embed.height_rel", ".attn.height_rel"),
            (".self_attn.pos_embed.width_rel", ".attn.width_rel"),
            (".self_attn.", ".attn."),
            (".post_attn.", ".norm."),
            (".conv3_1x1.", ".conv2."),
            ("final_conv.", "head.proj."),
        ),
    }

    checkpoint_dims = {"timm": {".conv.weight": 4, ".self_attn.q.weight": 4, ".self_attn.kv.weight": 4}}

    def build_stem(self, cfg: HaloNetConfig, in_chans: int, **dd: Any) -> nn.Module:
        return Stem(in_chans, cfg.widths[0], **dd)

    def build_stage(self, cfg: HaloNetConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim, stride = (cfg.embed_dims[index - 1], 2) if index > 0 else (cfg.widths[0], 1)
        blocks: list[nn.Module] = []
        for rate in drop_paths:  # the first block halves the resolution, so there is no downsampling before it
            blocks.append(Block(cfg, dim, index, stride, rate, **dd))
            dim, stride = cfg.embed_dims[index], 1
        return Stage(None, blocks)

    def build_head(self, cfg: HaloNetConfig, num_classes: int, **kwargs: Any) -> ClassifierHead:
        dim = cfg.embed_dims[-1]
        proj = None
        if cfg.head_hidden_size > 0:
            dd = {key: kwargs[key] for key in ("device", "dtype")}
            proj = LinearNormAct(dim, cfg.head_hidden_size, **dd)
        return ClassifierHead(dim, num_classes, proj=proj, **kwargs)

    def init_module(self, module: nn.Module) -> None:
        """As timm: convolutions (1x1 ones too) normal, std sqrt(2 / fan_out); the last BatchNorm of a block is 0."""
        if isinstance(module, HaloAttention):
            module.reset_parameters()  # after its projections, which the next branch took
        elif isinstance(module, nn.Linear) and module is not self.get_classifier():
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.out_features))
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, Block):
            nn.init.zeros_(module.conv2.bn.weight)
        elif isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


_EIGHT_HEADS = (8, 8, 8, 8)

VARIANTS = {  # Table 2 of the paper
    "halonet_h0_256": HaloNetConfig(out_ratio=0.5, depths=(3, 3, 7, 3)),
    "halonet_h1_256": HaloNetConfig(out_ratio=1.0, depths=(3, 3, 10, 3), num_heads=_EIGHT_HEADS),
    "halonet_h2_256": HaloNetConfig(out_ratio=1.25, depths=(3, 3, 11, 3)),
    "halonet_h3_320": HaloNetConfig(block_size=10, out_ratio=1.5, depths=(3, 3, 12, 3), head_hidden_size=1024),
    "halonet_h4_384": HaloNetConfig(
        block_size=12, halo_size=2, out_ratio=3.0, depths=(3, 3, 12, 3), head_hidden_size=1280
    ),
    "halonet_h5_448": HaloNetConfig(
        block_size=14, halo_size=2, v_ratio=2.5, out_ratio=2.0, depths=(3, 3, 23, 3), head_hidden_size=1536
    ),
    "halonet_h6_512": HaloNetConfig(
        halo_size=4, v_ratio=3.0, out_ratio=2.75, depths=(3, 3, 24, 3), head_hidden_size=1536
    ),
    "halonet_h7_600": HaloNetConfig(
        block_size=10, v_ratio=4.0, out_ratio=3.5, depths=(3, 3, 26, 3), head_hidden_size=2048
    ),
    "test_halonet": HaloNetConfig(
        block_size=4,
        halo_size=1,
        v_ratio=1.5,
        out_ratio=1.25,
        depths=(1, 1, 2, 1),
        head_hidden_size=112,
        widths=(16, 32, 48, 64),
        num_heads=(2, 4, 4, 4),
    ),
}


def _cfg(img_size: int = 256, **kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, img_size, img_size),
        "pool_size": (math.ceil(img_size / 32),) * 2,
        "crop_pct": 0.95,  # as timm's halonet hybrids; the paper does not say
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        **{name: _cfg(int(name.rsplit("_", 1)[1])) for name in VARIANTS if name != "test_halonet"},
        "test_halonet": _cfg(96),
    }
)

(
    halonet_h0_256,
    halonet_h1_256,
    halonet_h2_256,
    halonet_h3_320,
    halonet_h4_384,
    halonet_h5_448,
    halonet_h6_512,
    halonet_h7_600,
    test_halonet,
) = register_variants(HaloNet, VARIANTS)
