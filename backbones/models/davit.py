"""DaViT: a pyramid that alternates attention among the pixels of a window and among the channels of the whole map.

A spatial block attends inside windows of 7x7 pixels; the channel block after it makes tokens of the channels, in groups
of 32, so that every token sees the whole map. Together they are local and global at a cost linear in pixels. Position
comes from depthwise 3x3 convolutions added to the map, two a block.

Ding, Xiao, Codella, Luo, Wang, Yuan, "DaViT: Dual Attention Vision Transformers", ECCV 2022, arXiv:2204.03645.
Reference code: dingmyu/davit @ fc79470 (MIT).

Sizes: any from 32 pixels up; stem and downsampling pad at the bottom and right, so level i has ceil(H / stride_i)
rows. Windows are padded too, after the norm, and the padding is seen. The channel attention's logits are sums over all
pixels: features shift when the size is far from the one trained at.
Differs from the reference: nothing known. Its detection code adds a norm on each level (``out_norms``). The names of
queries, keys and values in the code differ from the paper's (see ``ChannelGroupAttention``); this follows the code.
Huge and giant, which the authors did not release, are read as timm reads them. The paper counts 4 and 2 % more
parameters, exactly those of 3x3 downsampling: ``overlap=True`` gives its 362 M and 1437 M.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, shortcut
from backbones.layers import ChannelGroupAttention, ClassifierHead, ConvPosEnc, Mlp, PatchEmbed, WindowAttention
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["DaViT", "DaViTConfig"]


@dataclass(frozen=True, kw_only=True)
class DaViTConfig:
    embed_dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...]  # pairs of a spatial and a channel block
    num_heads: tuple[int, ...] = (3, 6, 12, 24)  # also the channel groups
    window_size: int = 7
    overlap: bool = False  # downsample by 3x3 convolutions instead of 2x2
    mlp_ratio: int = 4


class Block(nn.Module):
    """Position, x + attention(LN(x)), position, x + mlp(LN(x)). x: (B, H, W, dim) -> (B, H, W, dim)"""

    def __init__(self, dim: int, mlp_ratio: int, drop_path: float, attn: nn.Module, **dd: Any) -> None:
        super().__init__()
        self.cpe1 = ConvPosEnc(dim, **dd)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.attn = attn
        self.cpe2 = ConvPosEnc(dim, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, dim * mlp_ratio, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        attn = shortcut(self.norm1, self.attn, self.drop_path)
        mlp = shortcut(self.norm2, self.mlp, self.drop_path)
        return sequential(x, self.cpe1, attn, self.cpe2, mlp)


class DaViT(PyramidBackbone):
    """DaViT: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2204.03645, section 3."""

    checkpoint_layouts = {
        # classification, detection and segmentation code; the latter two have a norm a level in place of the head's
        "official": (
            ("patch_embeds.0.", "stem."),
            ("patch_embeds.{i}.norm.", "stages.{i}.downsample.pre_norm."),
            ("patch_embeds.{i}.proj.", "stages.{i}.downsample.proj."),
            ("main_blocks.{i}.{j}.0.", "stages.{i}.blocks.{j}.spatial_block."),
            ("main_blocks.{i}.{j}.1.", "stages.{i}.blocks.{j}.channel_block."),
            (".cpe.0.", ".cpe1."),
            (".cpe.1.", ".cpe2."),
            ("norms.", "head.norm."),
            ("norm{i}.", "out_norms.{i}."),
            ("head.", "head.fc."),
        ),
        # davit_* of timm
        "timm": (
            ("stem.conv.", "stem.proj."),
            (".downsample.norm.", ".downsample.pre_norm."),
            (".downsample.conv.", ".downsample.proj."),
            (".blocks.{j}.0.", ".blocks.{j}.spatial_block."),
            (".blocks.{j}.1.", ".blocks.{j}.channel_block."),
        ),
        "mmpretrain": (
            ("patch_embed.projection.", "stem.proj."),
            ("patch_embed.", "stem."),
            ("stages.{i}.downsample.projection.", "stages.{i+1}.downsample.proj."),
            ("stages.{i}.downsample.norm.", "stages.{i+1}.downsample.pre_norm."),
            (".spatial_block.attn.w_msa.", ".spatial_block.attn."),
            (".ffn.layers.0.0.", ".mlp.fc1."),
            (".ffn.layers.1.", ".mlp.fc2."),
            ("norm3.", "head.norm."),
        ),
    }

    def block_counts(self, cfg: DaViTConfig) -> tuple[int, ...]:
        return tuple(2 * depth for depth in cfg.depths)

    def build_stem(self, cfg: DaViTConfig, in_chans: int, **dd: Any) -> nn.Module:
        dim = cfg.embed_dims[0]
        return PatchEmbed(in_chans, dim, 7, 4, padding=3, pad=True, post_norm=nn.LayerNorm(dim, **dd), **dd)

    def build_stage(self, cfg: DaViTConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim, num_heads = cfg.embed_dims[index], cfg.num_heads[index]
        downsample = None
        if index > 0:
            dim_in = cfg.embed_dims[index - 1]
            norm = nn.LayerNorm(dim_in, **dd)
            if cfg.overlap:
                downsample = PatchEmbed(dim_in, dim, 3, 2, padding=1, pad=True, pre_norm=norm, **dd)
            else:
                downsample = PatchEmbed(dim_in, dim, 2, 2, pad=True, pre_norm=norm, **dd)
        blocks: list[nn.Module] = []
        for spatial_rate, channel_rate in zip(drop_paths[::2], drop_paths[1::2], strict=True):
            window_attn = WindowAttention(dim, num_heads, cfg.window_size, **dd)
            channel_attn = ChannelGroupAttention(dim, num_heads, **dd)
            pair = OrderedDict(
                spatial_block=Block(dim, cfg.mlp_ratio, spatial_rate, window_attn, **dd),
                channel_block=Block(dim, cfg.mlp_ratio, channel_rate, channel_attn, **dd),
            )
            blocks.append(nn.Sequential(pair))
        return Stage(downsample, blocks)

    def build_head(self, cfg: DaViTConfig, num_classes: int, **kwargs: Any) -> ClassifierHead:
        """Pools before it normalises: the other order costs the published weights half a point of accuracy."""
        dim = cfg.embed_dims[-1]
        norm = nn.LayerNorm(dim, device=kwargs["device"], dtype=kwargs["dtype"])
        return ClassifierHead(dim, num_classes, norm=norm, **kwargs)


VARIANTS = {  # Table 1 of the paper; huge and giant as timm reads them
    "davit_tiny_window7_224": DaViTConfig(depths=(1, 1, 3, 1)),
    "davit_small_window7_224": DaViTConfig(depths=(1, 1, 9, 1)),
    "davit_base_window7_224": DaViTConfig(
        embed_dims=(128, 256, 512, 1024), depths=(1, 1, 9, 1), num_heads=(4, 8, 16, 32)
    ),
    "davit_large_window12_384": DaViTConfig(
        embed_dims=(192, 384, 768, 1536), depths=(1, 1, 9, 1), num_heads=(6, 12, 24, 48), window_size=12
    ),
    "davit_huge_window12_384": DaViTConfig(
        embed_dims=(256, 512, 1024, 2048), depths=(1, 1, 9, 1), num_heads=(8, 16, 32, 64), window_size=12
    ),
    "davit_giant_window12_384": DaViTConfig(
        embed_dims=(384, 768, 1536, 3072), depths=(1, 1, 12, 3), num_heads=(12, 24, 48, 96), window_size=12
    ),
    "test_davit": DaViTConfig(embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4)),
}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.95,  # as timm evaluates the published weights; the authors take 0.9
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


_OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0/davit"  # the same weights, if the hub cannot be had
_PAGE = "https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk"  # the authors', by hand
_AT_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0}

default_cfgs = generate_default_cfgs(
    {
        "davit_tiny_window7_224.msft_in1k": _cfg(
            hf_hub_id="timm/davit_tiny.msft_in1k",
            url=f"{_OPENMMLAB}/davit-tiny_3rdparty_in1k_20221116-700fdf7d.pth",
            origin_url=f"{_PAGE}/EcJYlVYP9y5FsDbMP-nwjtABgLmdrNGZBxgR5--Kg3MZ7Q",
        ),
        "davit_small_window7_224.msft_in1k": _cfg(
            hf_hub_id="timm/davit_small.msft_in1k",
            url=f"{_OPENMMLAB}/davit-small_3rdparty_in1k_20221116-51a849a6.pth",
            origin_url=f"{_PAGE}/ERN_Gzm8oKdIvO01r0X2cscB_owuRAnnQPNGJEVGP23xHQ",
        ),
        "davit_base_window7_224.msft_in1k": _cfg(
            hf_hub_id="timm/davit_base.msft_in1k",
            url=f"{_OPENMMLAB}/davit-base_3rdparty_in1k_20221116-19e0d956.pth",
            origin_url=f"{_PAGE}/Ea8kCpdM949CvTM0w7DWbGwBxxiACMSik4zx-emrNY0uKQ",
        ),
        "davit_large_window12_384": _cfg(**_AT_384),
        "davit_huge_window12_384": _cfg(**_AT_384),
        "davit_giant_window12_384": _cfg(**_AT_384),
        "test_davit": _cfg(input_size=(3, 96, 96), pool_size=(3, 3)),
    }
)

(
    davit_tiny_window7_224,
    davit_small_window7_224,
    davit_base_window7_224,
    davit_large_window12_384,
    davit_huge_window12_384,
    davit_giant_window12_384,
    test_davit,
) = register_variants(DaViT, VARIANTS)
