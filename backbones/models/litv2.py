"""LITv2: a pyramid without attention in its first half and HiLo attention in its second.

Stages 1 and 2 hold convolutional MLPs only; in stage 3 some heads attend within 2x2 windows and the others to
average-pooled keys (HiLo); stage 4 attends globally. A deformable convolution merges tokens between stages, and the
zero padding of depthwise convolutions is the only position information.

Pan, Cai, Zhuang, "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, arXiv:2205.13213.
Reference code: ziplab/LITv2 @ 7501c86 (Apache-2.0).

Sizes: any from 32 pixels up. The stem pads to a multiple of 4, so level 0 has ceil(H / 4) rows; each merging drops an
odd last row or column (floor), as the published weights were trained; HiLo pads to whole windows and crops after.
Differs from the reference: nothing known.
"""

import math
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, shortcut
from backbones.layers import ConvMlp, DeformableConv, DeformableMerging, HiLoAttention, PatchEmbed
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["LITv2", "LITv2Config"]


@dataclass(frozen=True, kw_only=True)
class LITv2Config:
    embed_dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (3, 6, 12, 24)  # of stages 3 and 4; the first two have no attention
    attn_window_size: int = 2  # side of HiLo's windows in stage 3; 4 in the faster detection models
    alpha: float = 0.9  # fraction of HiLo's heads that attend to pooled keys
    mlp_ratio: int = 4


class Block(nn.Module):
    """x + attention(LN(x)) if the stage attends, then x + mlp(LN(x)). x: (B, H, W, dim) -> (B, H, W, dim)"""

    def __init__(self, dim: int, mlp_ratio: int, drop_path: float, attn: nn.Module | None, **dd: Any) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if attn is None else nn.LayerNorm(dim, **dd)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = ConvMlp(dim, dim * mlp_ratio, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.attn is not None:
            x = sequential(x, shortcut(self.norm1, self.attn, self.drop_path))
        return sequential(x, shortcut(self.norm2, self.mlp, self.drop_path))


class LITv2(PyramidBackbone):
    """LITv2: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2205.13213, section 3."""

    checkpoint_layouts = {
        # classification, detection and segmentation code; the latter two add a norm for each level (``out_norms``)
        "official": (
            ("patch_embed.", "stem."),
            ("layers.{i}.downsample.dconv.conv_offset.", "stages.{i+1}.downsample.conv.offset."),
            ("layers.{i}.downsample.dconv.", "stages.{i+1}.downsample.conv."),
            ("layers.{i}.downsample.norm_layer.", "stages.{i+1}.downsample.norm."),
            ("layers.", "stages."),
            (".dwconv.dwconv.", ".dwconv."),
            ("norm{i}.", "out_norms.{i}."),
            ("head.", "head.fc."),
        ),
    }

    def build_stem(self, cfg: LITv2Config, in_chans: int, **dd: Any) -> nn.Module:
        dim = cfg.embed_dims[0]
        return PatchEmbed(in_chans, dim, 4, 4, pad=True, post_norm=nn.LayerNorm(dim, **dd), **dd)

    def build_stage(self, cfg: LITv2Config, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim = cfg.embed_dims[index]
        downsample = None if index == 0 else DeformableMerging(cfg.embed_dims[index - 1], dim, **dd)
        blocks: list[nn.Module] = []
        for rate in drop_paths:
            attn = None
            if index >= 2:
                # The last map is small enough to attend globally.
                window_size = cfg.attn_window_size if index == 2 else 1
                attn = HiLoAttention(dim, cfg.num_heads[index], window_size, cfg.alpha, **dd)
            blocks.append(Block(dim, cfg.mlp_ratio, rate, attn, **dd))
        return Stage(downsample, blocks)

    def build_norm(self, cfg: LITv2Config, **dd: Any) -> nn.Module:
        return nn.LayerNorm(cfg.embed_dims[-1], **dd)

    def init_module(self, module: nn.Module) -> None:
        """Depthwise convolutions: normal, std sqrt(2 / fan_out); offsets: 0; linear: truncated normal, std 0.02."""
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.normal_(module.weight, std=math.sqrt(2 / math.prod(module.kernel_size)))
            nn.init.zeros_(module.bias)
        elif isinstance(module, DeformableConv):
            nn.init.zeros_(module.offset.weight)
            nn.init.zeros_(module.offset.bias)
        else:
            super().init_module(module)


VARIANTS = {  # Table 2 of arXiv:2105.14217, with HiLo as in section 4 of arXiv:2205.13213
    "litv2_s": LITv2Config(depths=(2, 2, 6, 2)),
    "litv2_m": LITv2Config(depths=(2, 2, 18, 2)),
    "litv2_b": LITv2Config(embed_dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    "test_litv2": LITv2Config(embed_dims=(16, 32, 64, 96), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 4), alpha=0.5),
}


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


_RELEASE = "https://github.com/ziplab/LITv2/releases/download/v1.0"
_AT_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0, "crop_mode": "squash"}

default_cfgs = generate_default_cfgs(
    {
        "litv2_s.in1k": _cfg(f"{_RELEASE}/litv2_s.pth"),
        "litv2_m.in1k": _cfg(f"{_RELEASE}/litv2_m.pth"),
        "litv2_b.in1k": _cfg(f"{_RELEASE}/litv2_b.pth"),
        "litv2_b.in1k_384": _cfg(f"{_RELEASE}/litv2_b_384.pth", **_AT_384),
        "test_litv2": _cfg(input_size=(3, 96, 96), pool_size=(3, 3)),
    }
)

litv2_s, litv2_m, litv2_b, test_litv2 = register_variants(LITv2, VARIANTS)
