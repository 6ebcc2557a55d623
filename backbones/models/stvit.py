"""STViT: a pyramid of convolutions and attention among super tokens.

Every block adds a depthwise convolution, attention and a convolutional MLP. In stages 1 and 2 attention runs among
super tokens, weighted means of pixels near the cells of a grid, whose results go back to the pixels with the same
weights ("super token attention"); in stages 3 and 4 the cells are single pixels, which makes it plain attention.

Huang, Zhou, Cao, He, Tan, "Vision Transformer with Super Token Sampling", CVPR 2023, arXiv:2211.11167.
Reference code: hhb072/STViT @ c9ed9a4 (its model file says MIT; the weights state no licence).

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows. Attention pads to whole cells and crops after.
Differs from the reference: its fixed 3x3 unfolding kernels, 162 parameters a block in every checkpoint, are slices
here; super tokens are estimated once, as in all published models.
"""

from dataclasses import dataclass
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerScale
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, shortcut, to_nchw, to_nhwc
from backbones.layers import (
    ClassifierHead,
    ConvMlp,
    ConvPosEnc,
    PatchEmbed,
    SuperTokenAttention,
)
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["STViT", "STViTConfig"]


@dataclass(frozen=True, kw_only=True)
class STViTConfig:
    embed_dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    cell_sizes: tuple[int, ...] = (8, 4, 1, 1)  # in pixels of each stage's map; 1 is plain attention
    layer_scale: tuple[float | None, ...] = (None, None, None, None)  # initial value, None for none
    mlp_ratio: int = 4
    head_dim: int = 1024  # channels that the head pools


class Stem(nn.Module):
    """Four 3x3 convolutions, the first and third of stride 2, each with GELU and then BatchNorm.

    x: (B, H, W, in_chans) -> (B, ceil(H / 4), ceil(W / 4), dim)
    """

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        dims = (in_chans, dim // 2, dim // 2, dim, dim)
        for dim_in, dim_out, stride in zip(dims, dims[1:], (2, 1, 2, 1)):
            layers += [nn.Conv2d(dim_in, dim_out, 3, stride, 1, **dd), nn.GELU(), nn.BatchNorm2d(dim_out, **dd)]
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, to_nchw, self.proj, to_nhwc)


class Block(nn.Module):
    """x + depthwise 3x3, then x + ls1 * attention(LN(x)), then x + ls2 * mlp(BN(x)).

    x: (B, H, W, dim) -> (B, H, W, dim)
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        cell_size: int,
        mlp_ratio: int,
        layer_scale: float | None,
        drop_path: float,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.pos_embed = ConvPosEnc(dim, **dd)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.attn = SuperTokenAttention(dim, num_heads, cell_size, **dd)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, **dd)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = ConvMlp(dim, dim * mlp_ratio, shortcut=True, act_first=True, **dd)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        attn = shortcut(self.norm1, self.attn, self.ls1, self.drop_path)
        mlp = shortcut(to_nchw, self.norm2, to_nhwc, self.mlp, self.ls2, self.drop_path)
        return sequential(x, self.pos_embed, attn, mlp)


class HeadProjection(nn.Module):
    """1x1 convolution -> BatchNorm -> SiLU, before the head pools. x: (B, H, W, dim) -> (B, H, W, out_features)"""

    def __init__(self, dim: int, out_features: int, **dd: Any) -> None:
        super().__init__()
        self.out_features = out_features
        self.conv = nn.Linear(dim, out_features, **dd)
        self.norm = nn.BatchNorm2d(out_features, **dd)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, self.conv, to_nchw, self.norm, to_nhwc, self.act)


class STViT(PyramidBackbone):
    """Super token ViT: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2211.11167."""

    checkpoint_layouts = {
        "official": (
            (".fold.weights", None),  # fixed kernels
            (".unfold.weights", None),
            ("patch_embed.", "stem."),
            ("layers.{i}.downsample.proj.0.", "stages.{i+1}.downsample.proj."),
            ("layers.{i}.downsample.proj.1.", "stages.{i+1}.downsample.norm."),
            ("layers.", "stages."),
            (".pos_embed.conv.", ".pos_embed.proj."),
            (".norm1.norm.", ".norm1."),
            (".attn.stoken_refine.", ".attn."),
            (".mlp2.conv.conv.", ".mlp.dwconv."),
            (".mlp2.", ".mlp."),
            (".gamma_{i}", ".ls{i}.gamma"),
            ("head.", "head.fc."),
            ("proj.", "head.proj.conv."),
            ("norm.", "head.proj.norm."),
        ),
    }

    checkpoint_dims = {
        "official": {
            "proj.weight": 4,
            ".stoken_refine.qkv.weight": 4,
            ".stoken_refine.proj.weight": 4,
            ".mlp2.fc{i}.weight": 4,
        }
    }

    def build_stem(self, cfg: STViTConfig, in_chans: int, **dd: Any) -> nn.Module:
        return Stem(in_chans, cfg.embed_dims[0], **dd)

    def build_stage(self, cfg: STViTConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim = cfg.embed_dims[index]
        downsample = None
        if index > 0:
            norm = nn.BatchNorm2d(dim, **dd)
            downsample = PatchEmbed(cfg.embed_dims[index - 1], dim, 3, 2, padding=1, post_norm=norm, **dd)
        heads, cell_size, layer_scale = cfg.num_heads[index], cfg.cell_sizes[index], cfg.layer_scale[index]
        blocks: list[nn.Module] = [
            Block(dim, heads, cell_size, cfg.mlp_ratio, layer_scale, rate, **dd) for rate in drop_paths
        ]
        return Stage(downsample, blocks)

    def build_head(self, cfg: STViTConfig, num_classes: int, **kwargs: Any) -> ClassifierHead:
        dim, dd = cfg.embed_dims[-1], {"device": kwargs["device"], "dtype": kwargs["dtype"]}
        return ClassifierHead(dim, num_classes, proj=HeadProjection(dim, cfg.head_dim, **dd), **kwargs)

    def init_module(self, module: nn.Module) -> None:
        """Classifier: truncated normal, std 0.02; convolutions, 1x1 ones too, as PyTorch initialises them."""
        if module is self.get_classifier():
            super().init_module(module)

    def association(self, x: Tensor) -> dict[str, Tensor]:
        """How far each pixel belongs to the super tokens around it, in every block that has them; for pictures.

        x: (B, in_chans, H, W) -> {"stages.0.blocks.0": (B, ceil(H / 4), ceil(W / 4), 9), ...}, the last dimension as
        ``SuperTokenAttention.association`` orders it.
        """
        maps: dict[str, Tensor] = {}
        hooks = [
            module.attn.register_forward_pre_hook(
                lambda attn, args, name=name: maps.update({name: attn.association(args[0])})
            )
            for name, module in self.named_modules()
            if isinstance(module, Block) and module.attn.cell_size > 1
        ]
        try:
            with torch.no_grad():
                self.forward_features(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps


_SCALED = (None, None, 1e-6, 1e-6)

VARIANTS = {  # Table 1 of the paper; heads and layer scale from the reference code
    "stvit_small": STViTConfig(depths=(3, 5, 9, 3)),
    "stvit_base": STViTConfig(
        embed_dims=(96, 192, 384, 512), depths=(4, 6, 14, 6), num_heads=(2, 3, 6, 8), layer_scale=_SCALED
    ),
    "stvit_large": STViTConfig(
        embed_dims=(96, 192, 448, 640), depths=(4, 7, 19, 8), num_heads=(2, 3, 7, 10), layer_scale=_SCALED
    ),
    "test_stvit": STViTConfig(
        embed_dims=(16, 32, 48, 64),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 3, 4),
        layer_scale=_SCALED,
        head_dim=128,
    ),
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
        "first_conv": "stem.proj.0",
        "classifier": "head.fc",
        **kwargs,
    }


_FOLDER = "https://drive.google.com/drive/folders/1uaT5OarQd9iPrnFufHocHpM3zhyTcetB"  # no direct links
_AT_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0}

default_cfgs = generate_default_cfgs(
    {
        "stvit_small.in1k": _cfg(f"{_FOLDER}#file=stvit-small-224.pth"),
        "stvit_small.in1k_384": _cfg(f"{_FOLDER}#file=stvit-small-384.pth", **_AT_384),
        "stvit_base.in1k": _cfg(f"{_FOLDER}#file=stvit-base-224.pth"),
        "stvit_base.in1k_384": _cfg(f"{_FOLDER}#file=stvit-base-384.pth", **_AT_384),
        "stvit_large.in1k": _cfg(f"{_FOLDER}#file=stvit-large-224.pth"),
        "stvit_large.in1k_384": _cfg(f"{_FOLDER}#file=stvit-large-384.pth", **_AT_384),
        "test_stvit": _cfg(input_size=(3, 96, 96), pool_size=(3, 3)),
    }
)

stvit_small, stvit_base, stvit_large, test_stvit = register_variants(STViT, VARIANTS)
