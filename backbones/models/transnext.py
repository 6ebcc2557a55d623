"""TransNeXt: a pyramid whose pixels look sharply at their neighbours and coarsely at the whole image; and MoH on it.

Aggregated attention puts the 3x3 neighbours and a pooled map of the image into one softmax of cosines; the last stage
attends globally. Positions come from an MLP of log-spaced distances, the MLP is gated by a depthwise convolution. In
MoH-ViT each token weighs the heads: some are always on, of the others a few are chosen.

Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv:2311.17132.
Reference code: DaiShiResearch/TransNeXt @ c8a9974 (Apache-2.0).
Jin, Zhu, Yuan, Yan, "MoH: Multi-Head Attention as Mixture-of-Head Attention", arXiv:2410.11842.
Reference code: SkyworkAI/MoH @ 2cefd57 (Apache-2.0).

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows. The position bias of other sizes than that of
pre-training is extrapolated, or interpolated from ``pos_bias_size``, as the published dense models were trained.
Differs from the reference: a pooled map has one pixel at least.
"""

import math
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.layers import AggregatedAttention, ConvGLU, GlobalCosineAttention, HeadGate, PatchEmbed
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["MoHViT", "TransNeXt", "TransNeXtConfig"]


@dataclass(frozen=True, kw_only=True)
class TransNeXtConfig:
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    head_dim: int = 24
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)  # side of pooled pixels; 1 attends globally
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)  # two thirds of it in the gated MLP, rounded down twice
    pretrain_size: int = 224  # side of the images in pre-training, to which distances are relative
    pos_bias_size: int | None = None  # side of the images whose position bias is resized; None computes each image's
    heads_shared: tuple[int, ...] | None = None  # MoH: heads that are always on
    heads_on: tuple[int, ...] = (0, 0, 0, 0)  # MoH: how many of the other heads a token chooses


class Block(nn.Module):
    """x + attention(LN(x)), then x + mlp(LN(x)). x: (B, H, W, dim) -> (B, H, W, dim)"""

    def __init__(self, cfg: TransNeXtConfig, index: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        dim, ratio, stride = cfg.embed_dims[index], cfg.sr_ratios[index], 4 << index
        heads = dim // cfg.head_dim
        gate = None
        if cfg.heads_shared is not None:
            gate = HeadGate(dim, heads, cfg.heads_shared[index], cfg.heads_on[index], **dd)
        map_size = None if cfg.pos_bias_size is None else cfg.pos_bias_size // stride
        options = {"pretrain_side": cfg.pretrain_size // stride, "map_size": map_size, "gate": gate, **dd}
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.attn: nn.Module
        if ratio == 1:
            self.attn = GlobalCosineAttention(dim, heads, **options)
        else:
            self.attn = AggregatedAttention(dim, heads, ratio, **options)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.mlp = ConvGLU(dim, 2 * cfg.mlp_ratios[index] * dim // 3, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TransNeXt(PyramidBackbone):
    """TransNeXt: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2311.17132, section 4."""

    checkpoint_layouts = {
        # classification and dense code
        "official": (
            ("patch_embed1.", "stem."),
            ("patch_embed{i}.", "stages.{i-1}.downsample."),
            ("block{i}.", "stages.{i-1}.blocks."),
            ("norm{i}.", "stages.{i-1}.norm."),
            (".attn.cpb_fc{i}.", ".attn.pos_bias.fc{i}."),
            (".attn.relative_pos_bias_local", ".attn.rpb"),
            (".dwconv.dwconv.", ".dwconv."),
            ("head.", "head.fc."),
        ),
    }
    checkpoint_dims = {"official": {".attn.sr.weight": 4}}
    int8_float_layers = ("pos_bias",)  # which takes coordinates: those of other sizes are outside a calibrated range

    def build_stem(self, cfg: TransNeXtConfig, in_chans: int, **dd: Any) -> nn.Module:
        dim = cfg.embed_dims[0]
        return PatchEmbed(in_chans, dim, 7, 4, padding=3, post_norm=nn.LayerNorm(dim, **dd), **dd)

    def build_stage(self, cfg: TransNeXtConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim = cfg.embed_dims[index]
        downsample = None
        if index > 0:
            norm = nn.LayerNorm(dim, **dd)
            downsample = PatchEmbed(cfg.embed_dims[index - 1], dim, 3, 2, padding=1, post_norm=norm, **dd)
        blocks: list[nn.Module] = [Block(cfg, index, rate, **dd) for rate in drop_paths]
        return Stage(downsample, blocks, nn.LayerNorm(dim, eps=1e-6, **dd))

    def init_module(self, module: nn.Module) -> None:
        """Convolutions: normal, std sqrt(2 / fan_out); linear layers: truncated normal, std 0.02."""
        if isinstance(module, AggregatedAttention):  # a convolution in the reference
            nn.init.normal_(module.sr.weight, std=math.sqrt(2 / module.sr.out_features))
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(module.bias)
        else:
            super().init_module(module)

    def no_weight_decay(self) -> set[str]:
        """Positions, temperatures and query embeddings are not decayed; learnable tokens are."""
        spared = ("query_embedding", "rpb", "pos_bias", "temperature")
        return {name for name, _ in self.named_parameters() if any(key in name for key in spared)}


class MoHViT(TransNeXt):
    """TransNeXt with gated heads: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2410.11842.

    It trains with ``call_with_balance(model, images)``, which gives the logits and the load-balancing loss.
    """

    checkpoint_layouts = {
        "official": (
            (".attn.wg.", ".attn.gate.wg."),
            (".attn.wg_{i}.", ".attn.gate.wg_{i}."),
            *TransNeXt.checkpoint_layouts["official"],
        ),
    }


_TINY: dict[str, Any] = {"embed_dims": (24, 48, 72, 96), "depths": (1, 1, 2, 1), "mlp_ratios": (4, 4, 4, 4)}
_MICRO: dict[str, Any] = {"embed_dims": (48, 96, 192, 384), "depths": (2, 2, 15, 2)}
_SMALL: dict[str, Any] = {"embed_dims": (72, 144, 288, 576), "depths": (5, 5, 22, 5)}
_BASE: dict[str, Any] = {"embed_dims": (96, 192, 384, 768), "depths": (5, 5, 23, 5)}
_TRANSNEXT_VARIANTS = {  # configs of the authors' repositories
    "transnext_micro": TransNeXtConfig(**_MICRO),
    "transnext_micro_aaaa": TransNeXtConfig(**_MICRO, sr_ratios=(16, 8, 4, 2), pretrain_size=256),
    "transnext_tiny": TransNeXtConfig(embed_dims=(72, 144, 288, 576), depths=(2, 2, 15, 2)),
    "transnext_small": TransNeXtConfig(**_SMALL),
    "transnext_base": TransNeXtConfig(**_BASE),
    "test_transnext": TransNeXtConfig(**_TINY),
}

_MOH_VARIANTS = {
    "moh_vit_s_80": TransNeXtConfig(**_SMALL, heads_shared=(3, 6, 3, 8), heads_on=(0, 0, 6, 12)),
    "moh_vit_s_75": TransNeXtConfig(**_SMALL, heads_shared=(3, 6, 3, 4), heads_on=(0, 0, 6, 12)),
    "moh_vit_b_75": TransNeXtConfig(**_BASE, heads_shared=(4, 8, 4, 5), heads_on=(0, 0, 8, 16)),
    "moh_vit_b_50": TransNeXtConfig(**_BASE, heads_shared=(2, 2, 2, 4), heads_on=(2, 4, 6, 8)),
    "test_moh": TransNeXtConfig(**_TINY, head_dim=12, heads_shared=(2, 2, 2, 3), heads_on=(0, 1, 2, 3)),
}

VARIANTS = _TRANSNEXT_VARIANTS | _MOH_VARIANTS


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


_HUB = "https://huggingface.co/DaiShiResearch"
_MOH = "https://huggingface.co/Chat-UniVi/MoH-ViT"  # fetched by hand: the names of the files are not verified
_AT_256: dict[str, Any] = {"input_size": (3, 256, 256), "pool_size": (8, 8)}
_AT_384: dict[str, Any] = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0, "crop_mode": "squash"}

default_cfgs = generate_default_cfgs(
    {
        "transnext_micro.in1k": _cfg(f"{_HUB}/transnext-micro-224-1k/resolve/main/transnext_micro_224_1k.pth"),
        "transnext_micro_aaaa.in1k_256": _cfg(
            f"{_HUB}/transnext-micro-AAAA-256-1k/resolve/main/transnext_micro_AAAA_256_1k.pth", **_AT_256
        ),
        "transnext_tiny.in1k": _cfg(f"{_HUB}/transnext-tiny-224-1k/resolve/main/transnext_tiny_224_1k.pth"),
        "transnext_small.in1k": _cfg(f"{_HUB}/transnext-small-224-1k/resolve/main/transnext_small_224_1k.pth"),
        "transnext_small.in1k_384": _cfg(
            f"{_HUB}/transnext-small-384-1k-ft-1k/resolve/main/transnext_small_384_1k_ft_1k.pth", **_AT_384
        ),
        "transnext_base.in1k": _cfg(f"{_HUB}/transnext-base-224-1k/resolve/main/transnext_base_224_1k.pth"),
        "transnext_base.in1k_384": _cfg(
            f"{_HUB}/transnext-base-384-1k-ft-1k/resolve/main/transnext_base_384_1k_ft_1k.pth", **_AT_384
        ),
        "moh_vit_s_80.in1k": _cfg(f"{_MOH}-S-80#file=moh_transnext_small_80.pth"),
        "moh_vit_s_75.in1k": _cfg(f"{_MOH}-S-75#file=moh_transnext_small_75.pth"),
        "moh_vit_b_75.in1k": _cfg(f"{_MOH}-B-75#file=moh_transnext_base_75.pth"),
        "moh_vit_b_50.in1k": _cfg(f"{_MOH}-B-50#file=moh_transnext_base_50.pth"),
        # of 64: at 96 the first map would have as many rows as channels, which hides its layout
        "test_transnext": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
        "test_moh": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)

(
    transnext_micro,
    transnext_micro_aaaa,
    transnext_tiny,
    transnext_small,
    transnext_base,
    test_transnext,
) = register_variants(TransNeXt, _TRANSNEXT_VARIANTS)
(
    moh_vit_s_80,
    moh_vit_s_75,
    moh_vit_b_75,
    moh_vit_b_50,
    test_moh,
) = register_variants(MoHViT, _MOH_VARIANTS)
