"""SG-Former: a pyramid that alternates scoring its tokens and attending to tokens merged by that score.

In stages 1 to 3 a hybrid block attends half globally, half in 7x7 windows, and its attention weights score the
significance of every pixel; the block after it attends to merged tokens, each of many insignificant or of few
significant pixels. The last stage attends globally. A trained table and depthwise convolutions tell positions.

Ren, Yang, Liu, Wang, "SG-Former: Self-guided Transformer with Evolving Token Reallocation", ICCV 2023,
arXiv:2308.12216.
Reference code: OliverRensu/SG-Former @ b982803 (no licence stated).

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows. The reference takes multiples of 224 only, and there
this is equal to it. Elsewhere windows are padded and the padding is masked, the strided convolution sees zero padding,
and classes of significance are stretched to whole groups (``TokenMerge``). An image of another size than ``img_size``
resamples the position table (bicubic).
Differs from the reference: ties of significance are broken by position, there as the sort happens to.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, resample_abs_pos_embed_nhwc
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.kernels import sequential, shortcut, to_nchw, to_nhwc
from backbones.layers import (
    ConvMlp,
    HybridAttention,
    LePEAttention,
    SelfGuidedAttention,
)
from backbones.models._pyramid import PyramidBackbone, Stage, image_to_map, update_model_input_size
from backbones.models._registry import register_variants

__all__ = ["SGFormer", "SGFormerConfig"]


@dataclass(frozen=True, kw_only=True)
class SGFormerConfig:
    embed_dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    img_size: int | tuple[int, int] = 224  # whose map the position table has; other images resample it
    sr_ratios: tuple[int, ...] = (8, 4, 2)  # of the strided tokens in stages 1 to 3
    window_size: int = 7
    # (quarters of the pixels, pixels in a merged token), the least significant first; stages 1 to 3
    merging: tuple[tuple[tuple[int, int], ...], ...] = (
        ((1, 196), (2, 56), (1, 28)),
        ((1, 49), (2, 14), (1, 7)),
        ((2, 2), (2, 1)),
    )
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if any(depth % 2 for depth in self.depths[:3]):
            raise ValueError(
                f"depths {self.depths}: hybrid and self-guided blocks alternate, so the first 3 must be even"
            )


def _table_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Sides of the position table for images of this size."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height < 32 or width < 32:
        raise ValueError(f"img_size {img_size} is below the 32 pixels that a model takes")
    return -(-height // 4), -(-width // 4)


def sincos_table(height: int, width: int, dim: int) -> Tensor:
    """Sines and cosines of the column (first half of the channels) and of the row: (1, height, width, dim), float64.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def encode(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (count, dim / 2)

    columns = encode(width)[None, :].expand(height, -1, -1)
    rows = encode(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1)[None]


def resample_table(table: Tensor, height: int, width: int) -> Tensor:
    """Resample a position table bicubically. table: (1, H, W, dim) -> (1, height, width, dim)"""
    # Antialiasing has a derivative that crashes PyTorch's compiler where sizes are symbols.
    return resample_abs_pos_embed_nhwc(table, [height, width], antialias=False)


class ConvNorm(nn.Module):
    """3x3 convolution without bias, then one normalisation over all channels and pixels.

    x: (B, H, W, dim) -> (B, ceil(H / stride), ceil(W / stride), dim_out)
    """

    def __init__(self, dim: int, dim_out: int, stride: int, groups: int = 1, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim_out, 3, stride, 1, groups=groups, bias=False, **dd)
        self.norm = nn.GroupNorm(1, dim_out, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, to_nchw, self.conv, self.norm, to_nhwc)


class LinearNorm(nn.Module):
    """1x1 convolution without bias, then one normalisation over all channels and pixels.

    x: (B, H, W, dim) -> (B, H, W, dim_out)
    """

    def __init__(self, dim: int, dim_out: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Linear(dim, dim_out, bias=False, **dd)
        self.norm = nn.GroupNorm(1, dim_out, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, self.conv, to_nchw, self.norm, to_nhwc)


class Stem(nn.Module):
    """Three 3x3 convolutions, of stride 2, 1 and 2, and the position table.

    x: (B, H, W, in_chans) -> (B, ceil(H / 4), ceil(W / 4), dim)
    """

    def __init__(self, in_chans: int, dim: int, table_size: tuple[int, int], **dd: Any) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_chans, dim, 2, **dd)
        self.conv2 = ConvNorm(dim, dim, 1, **dd)
        self.conv3 = ConvNorm(dim, dim, 2, **dd)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(dim, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, *table_size, dim, **dd))

    def forward(self, x: Tensor) -> Tensor:
        x = sequential(x, self.conv1, self.act, self.conv2, self.act, self.conv3, self.norm)
        return x + resample_table(self.pos_embed, x.shape[1], x.shape[2])


class Downsample(nn.Module):
    """Linear -> depthwise 3x3 of stride 2 -> linear, each normalised over the whole map.

    x: (B, H, W, dim) -> (B, ceil(H / 2), ceil(W / 2), dim_out)
    """

    def __init__(self, dim: int, dim_out: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = LinearNorm(dim, dim_out, **dd)
        self.conv2 = ConvNorm(dim_out, dim_out, 2, groups=dim_out, **dd)
        self.conv3 = LinearNorm(dim_out, dim_out, **dd)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, self.conv1, self.act, self.conv2, self.act, self.conv3)


class Block(nn.Module):
    """x + attention(LN(x)), then x + mlp(LN(x)), handing the significance map from and to the attention.

    x: (B, H, W, dim), significance: (B, H, W) or None -> the same
    """

    def __init__(self, dim: int, mlp_ratio: int, drop_path: float, attn: nn.Module, **dd: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.mlp = ConvMlp(dim, dim * mlp_ratio, shortcut=True, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor, significance: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        attended, significance = self.attn(self.norm1(x), significance)
        x = x + self.drop_path(attended)
        return sequential(x, shortcut(self.norm2, self.mlp, self.drop_path)), significance


class GuidedStage(Stage):
    """A stage whose blocks hand on a significance map beside the features."""

    def __init__(self, downsample: nn.Module | None, blocks: list[nn.Module], norm: nn.Module) -> None:
        super().__init__(downsample, blocks, norm)
        self.blocks = nn.ModuleList(blocks)  # TorchScript compiles a Sequential for a single input

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        significance: Tensor | None = None
        for block in self.blocks:
            if self.grad_checkpointing:
                x, significance = checkpoint(block, x, significance, use_reentrant=False)
            else:
                x, significance = block(x, significance)
        return self.norm(x)


class SGFormer(PyramidBackbone):
    """SG-Former: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2308.12216."""

    export_tolerance = 1e-3  # tokens are sorted, and another rounding exchanges neighbours

    checkpoint_layouts = {
        "official": (
            ("pos_embed", "stem.pos_embed"),
            ("patch_embed1.conv.0.c.", "stem.conv1.conv."),
            ("patch_embed1.conv.0.bn.", "stem.conv1.norm."),
            ("patch_embed1.conv.2.c.", "stem.conv2.conv."),
            ("patch_embed1.conv.2.bn.", "stem.conv2.norm."),
            ("patch_embed1.conv.4.c.", "stem.conv3.conv."),
            ("patch_embed1.conv.4.bn.", "stem.conv3.norm."),
            ("patch_embed1.", "stem."),
            ("patch_embed{i}.", "stages.{i-1}.downsample."),
            ("block{i}.", "stages.{i-1}.blocks."),
            ("norm{i}.", "stages.{i-1}.norm."),
            (".conv{i}.c.", ".conv{i}.conv."),
            (".conv{i}.bn.", ".conv{i}.norm."),
            (".attn.f{i}.", ".attn.merge.{i-1}."),
            (".lepe_linear.", ".lepe.linear."),
            (".lepe_conv.", ".lepe.conv."),
            (".dwconv.dwconv.", ".dwconv."),
            ("head.", "head.fc."),
        ),
    }
    checkpoint_dims = {"official": {"pos_embed": 3, ".conv1.c.weight": 4, ".conv3.c.weight": 4}}
    # The authors selected and evaluated the averaged weights.
    checkpoint_entries = ("state_dict_ema", *(e for e in PyramidBackbone.checkpoint_entries if e != "state_dict_ema"))

    def build_stem(self, cfg: SGFormerConfig, in_chans: int, **dd: Any) -> nn.Module:
        return Stem(in_chans, cfg.embed_dims[0], _table_size(cfg.img_size), **dd)

    def build_stage(self, cfg: SGFormerConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim, num_heads = cfg.embed_dims[index], cfg.num_heads[index]
        blocks: list[nn.Module] = []
        for i, rate in enumerate(drop_paths):
            if index == 3:
                attn = LePEAttention(dim, num_heads, **dd)
            elif i % 2 == 0:
                attn = HybridAttention(dim, num_heads, cfg.sr_ratios[index], cfg.window_size, **dd)
            else:
                attn = SelfGuidedAttention(dim, num_heads, cfg.merging[index], **dd)
            blocks.append(Block(dim, cfg.mlp_ratio, rate, attn, **dd))
        downsample = Downsample(cfg.embed_dims[index - 1], dim, **dd) if index > 0 else None
        return GuidedStage(downsample, blocks, nn.LayerNorm(dim, eps=1e-6, **dd))

    def init_module(self, module: nn.Module) -> None:
        """Convolutions (1x1 too): normal, std sqrt(2 / fan_out); linear: truncated normal, std 0.02; table: sin-cos."""
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, LinearNorm):  # comes after the Linear in it
            nn.init.normal_(module.conv.weight, std=math.sqrt(2 / module.conv.out_features))
        elif isinstance(module, Stem):
            _, height, width, dim = module.pos_embed.shape
            with torch.no_grad():
                module.pos_embed.copy_(sincos_table(height, width, dim))
        else:
            super().init_module(module)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resample the position table to images of this size, so that they need no resampling in each forward pass."""
        table = resample_table(self.stem.pos_embed.detach(), *_table_size(img_size))
        self.stem.pos_embed = nn.Parameter(table.contiguous(), self.stem.pos_embed.requires_grad)
        self.cfg = dataclasses.replace(self.cfg, img_size=img_size)
        update_model_input_size(self, img_size)

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample a position table of other sides, (1, H * W, C) with H = W or (1, H, W, C), to the model's."""
        key = "stem.pos_embed"
        if key in state_dict:
            _, height, width, dim = self.stem.pos_embed.shape
            table = state_dict[key]
            side = math.isqrt(table.shape[1])
            if table.ndim == 3 and side * side == table.shape[1]:
                table = table.unflatten(1, (side, side))
            if table.ndim == 4 and table.shape[-1] == dim:
                state_dict[key] = resample_table(table, height, width).contiguous()
        return state_dict

    def significance(self, x: Tensor) -> dict[str, Tensor]:
        """What every hybrid block hands to the block after it, for pictures.

        x: (B, in_chans, H, W) -> {"stages.0.blocks.0": (B, ceil(H / 4), ceil(W / 4)), ...}
        """
        maps: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_hook(lambda _, args, output, name=name: maps.update({name: output[1]}))
            for name, module in self.named_modules()
            if isinstance(module, Block) and isinstance(module.attn, HybridAttention)
        ]
        try:
            with torch.no_grad():
                self.stages(self.stem(image_to_map(x, self.in_chans)))
        finally:
            for hook in hooks:
                hook.remove()
        return maps


VARIANTS = {
    "sgformer_s": SGFormerConfig(depths=(2, 4, 16, 1)),
    "sgformer_m": SGFormerConfig(depths=(2, 6, 28, 2)),
    "sgformer_b": SGFormerConfig(embed_dims=(96, 192, 384, 768), depths=(4, 6, 24, 2), num_heads=(4, 6, 12, 24)),
    "test_sgformer": SGFormerConfig(
        embed_dims=(16, 32, 48, 64), depths=(2, 2, 2, 1), num_heads=(2, 2, 2, 2), img_size=96, mlp_ratio=2
    ),
}


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1.conv",
        "classifier": "head.fc",
        **kwargs,
    }


_FOLDER = "https://drive.google.com/drive/folders/1ZJDEwxDffqqqzBC2SzhOkpWpGRweDsE4"  # no direct links

default_cfgs = generate_default_cfgs(
    {  # the name of S is known, those of M and B follow it
        "sgformer_s.in1k": _cfg(f"{_FOLDER}#file=SG-Former-S.pth"),
        "sgformer_m.in1k": _cfg(f"{_FOLDER}#file=SG-Former-M.pth"),
        "sgformer_b.in1k": _cfg(f"{_FOLDER}#file=SG-Former-B.pth"),
        "test_sgformer": _cfg(input_size=(3, 96, 96), pool_size=(3, 3)),
    }
)

sgformer_s, sgformer_m, sgformer_b, test_sgformer = register_variants(SGFormer, VARIANTS)
