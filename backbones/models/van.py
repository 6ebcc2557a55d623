"""Visual Attention Network (VAN): a convolutional pyramid whose attention is a large-kernel convolution.

A depthwise 5x5, a depthwise dilated 7x7 and a 1x1 convolution together see 21x21 pixels; their output multiplies the
features ("large kernel attention"). There is no softmax and no position encoding, and the cost is linear in pixels.

Guo, Lu, Liu, Cheng, Hu, "Visual Attention Network", Computational Visual Media 2023, arXiv:2202.09741.
Reference code: Visual-Attention-Network/VAN-Classification @ e19779b (Apache-2.0).

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows.
Differs from the reference: nothing known. Its dense prediction code runs the stage norms with eps 1e-5 (``norm_eps``).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerScale
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, shortcut, to_nchw, to_nhwc
from backbones.layers import ConvMlp, LargeKernelAttention, PatchEmbed
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["VAN", "VANConfig"]


@dataclass(frozen=True, kw_only=True)
class VANConfig:
    embed_dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...]
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    norm_eps: float = 1e-6  # of the LayerNorm after each stage; 1e-5 in the published segmentation models


class SpatialAttention(nn.Module):
    """1x1 -> GELU -> large-kernel attention -> 1x1, with a shortcut of its own (figure 3 of the paper omits it).

    x: (B, H, W, dim) -> (B, H, W, dim)
    """

    def __init__(self, dim: int, **dd: Any) -> None:
        super().__init__()
        self.proj_1 = nn.Linear(dim, dim, **dd)
        self.act = nn.GELU()
        self.lka = LargeKernelAttention(dim, **dd)
        self.proj_2 = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, shortcut(self.proj_1, self.act, self.lka, self.proj_2))


class Block(nn.Module):
    """x + ls1 * attention(BN(x)), then x + ls2 * mlp(BN(x)). x: (B, H, W, dim) -> (B, H, W, dim)"""

    def __init__(self, dim: int, mlp_ratio: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.attn = SpatialAttention(dim, **dd)
        self.ls1 = LayerScale(dim, 1e-2, **dd)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = ConvMlp(dim, dim * mlp_ratio, **dd)
        self.ls2 = LayerScale(dim, 1e-2, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        attn = shortcut(to_nchw, self.norm1, to_nhwc, self.attn, self.ls1, self.drop_path)
        mlp = shortcut(to_nchw, self.norm2, to_nhwc, self.mlp, self.ls2, self.drop_path)
        return sequential(x, attn, mlp)


class VAN(PyramidBackbone):
    """Visual Attention Network: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2202.09741."""

    checkpoint_layouts = {
        # VAN-Classification and VAN-Segmentation
        "official": (
            ("patch_embed1.", "stem."),
            ("patch_embed{i}.", "stages.{i-1}.downsample."),
            ("block{i}.", "stages.{i-1}.blocks."),
            ("norm{i}.", "stages.{i-1}.norm."),
            (".layer_scale_{i}", ".ls{i}.gamma"),
            (".spatial_gating_unit.conv0.", ".lka.local."),
            (".spatial_gating_unit.conv_spatial.", ".lka.dilated."),
            (".spatial_gating_unit.conv1.", ".lka.mix."),
            (".dwconv.dwconv.", ".dwconv."),
            ("head.", "head.fc."),
        ),
        "mmpretrain": (
            ("patch_embed1.projection.", "stem.proj."),
            ("patch_embed1.", "stem."),
            ("patch_embed{i}.projection.", "stages.{i-1}.downsample.proj."),
            ("patch_embed{i}.", "stages.{i-1}.downsample."),
            ("blocks{i}.", "stages.{i-1}.blocks."),
            ("norm{i}.", "stages.{i-1}.norm."),
            (".layer_scale_{i}", ".ls{i}.gamma"),
            (".spatial_gating_unit.DW_conv.", ".lka.local."),
            (".spatial_gating_unit.DW_D_conv.", ".lka.dilated."),
            (".spatial_gating_unit.conv1.", ".lka.mix."),
        ),
    }

    checkpoint_dims = {
        layout: {".proj_{i}.weight": 4, ".fc{i}.weight": 4, ".conv1.weight": 4} for layout in ("official", "mmpretrain")
    }

    def build_stem(self, cfg: VANConfig, in_chans: int, **dd: Any) -> nn.Module:
        dim = cfg.embed_dims[0]
        return PatchEmbed(in_chans, dim, 7, 4, padding=3, post_norm=nn.BatchNorm2d(dim, **dd), **dd)

    def build_stage(self, cfg: VANConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim = cfg.embed_dims[index]
        downsample = None
        if index > 0:
            norm = nn.BatchNorm2d(dim, **dd)
            downsample = PatchEmbed(cfg.embed_dims[index - 1], dim, 3, 2, padding=1, post_norm=norm, **dd)
        blocks: list[nn.Module] = [Block(dim, cfg.mlp_ratios[index], rate, **dd) for rate in drop_paths]
        return Stage(downsample, blocks, nn.LayerNorm(dim, eps=cfg.norm_eps, **dd))

    def init_module(self, module: nn.Module) -> None:
        """Convolutions (1x1 ones too): normal, std sqrt(2 / fan_out); classifier: truncated normal, std 0.02."""
        if isinstance(module, nn.Linear) and module is not self.get_classifier():
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.out_features))
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(module.bias)
        else:
            super().init_module(module)


VARIANTS = {  # Table 2 of the paper
    "van_b0": VANConfig(embed_dims=(32, 64, 160, 256), depths=(3, 3, 5, 2)),
    "van_b1": VANConfig(depths=(2, 2, 4, 2)),
    "van_b2": VANConfig(depths=(3, 3, 12, 3)),
    "van_b3": VANConfig(depths=(3, 5, 27, 3)),
    "van_b4": VANConfig(depths=(3, 6, 40, 3)),
    "van_b5": VANConfig(embed_dims=(96, 192, 480, 768), depths=(3, 3, 24, 3)),
    "van_b6": VANConfig(embed_dims=(96, 192, 384, 768), depths=(6, 6, 90, 6)),  # stage 3 is narrower than in B5
    "test_van": VANConfig(embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4)),
}


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    # The weights were trained with timm's defaults for plain vision transformers, not with ImageNet statistics.
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


_HUB = "https://huggingface.co/Visual-Attention-Network"
_OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0/van"
_SHIPPED = Path(__file__).parents[1] / "weights" / "digits"  # trained on scikit-learn's scans of digits
# ImageNet-22K was trained with ConvNeXt's pipeline.
_IN21K = {"num_classes": 0, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "crop_pct": 0.875}

default_cfgs = generate_default_cfgs(
    {
        "van_b0.in1k": _cfg(f"{_HUB}/VAN-Tiny-original/resolve/main/van_tiny_754.pth.tar"),
        "van_b1.in1k": _cfg(f"{_HUB}/VAN-Small-original/resolve/main/van_small_811.pth.tar"),
        "van_b2.in1k": _cfg(f"{_HUB}/VAN-Base-original/resolve/main/van_base_828.pth.tar"),
        "van_b3.in1k": _cfg(f"{_HUB}/VAN-Large-original/resolve/main/van_large_839.pth.tar"),
        "van_b4.in1k": _cfg(f"{_OPENMMLAB}/van-b4_3rdparty_in1k_20220909-f4665b92.pth"),
        "van_b4.in21k": _cfg(f"{_OPENMMLAB}/van-b4_3rdparty_in21k_20220909-db926b18.pth", **_IN21K),
        "van_b5.in21k": _cfg(f"{_OPENMMLAB}/van-b5_3rdparty_in21k_20220909-18e904e3.pth", **_IN21K),
        "van_b6.in21k": _cfg(f"{_OPENMMLAB}/van-b6_3rdparty_in21k_20220909-96c2cb3a.pth", **_IN21K),
        "test_van.digits": _cfg(
            file=str(_SHIPPED / "test_van.safetensors"),
            num_classes=10,
            input_size=(3, 64, 64),
            pool_size=(2, 2),
            crop_pct=1.0,
        ),
    }
)

van_b0, van_b1, van_b2, van_b3, van_b4, van_b5, van_b6, test_van = register_variants(VAN, VARIANTS)
