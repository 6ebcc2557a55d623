"""NAT and DiNAT: a pyramid of neighbourhood attention, in which every pixel attends to exactly 7 x 7 pixels around it.

At a border the neighbourhood is shifted inside the map, never shortened. DiNAT is the same network with every other
block dilated, so that few blocks see far; DiNAT_s puts these blocks in Swin's layout. There is no position but the
relative one in the attention's bias. ``heads_shared`` and ``heads_on`` let each token weigh and choose the heads, as
in MoH (arXiv:2410.11842); no weights are published for that.

Hassani, Walton, Li, Li, Shi, "Neighborhood Attention Transformer", CVPR 2023, arXiv:2204.07143.
Hassani, Shi, "Dilated Neighborhood Attention Transformer", arXiv:2209.15001.
Reference code: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b, with natten 0.14 (both MIT).

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows. Maps smaller than a dilated neighbourhood are padded
and the padding is seen (``NeighborhoodAttention``), as natten 0.14 did, with which the published results were made.
Dilations belong to the task, not to the weights: ``dilations`` takes any, and ``DILATIONS`` has the published ones.
Differs from the reference: nothing known.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerScale
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc
from backbones.layers import HeadGate, Mlp, NeighborhoodAttention, PatchEmbed
from backbones.layers.functional import pad_to_multiple
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["DILATIONS", "NAT", "DiNATS", "NATConfig"]

Dilations = tuple[tuple[int, ...], ...]

# Of the blocks of each stage, repeated where a stage has more blocks.
DILATIONS: dict[str, Dilations] = {
    "none": ((1,), (1,), (1,), (1,)),
    "224": ((1, 8), (1, 4), (1, 2), (1,)),
    "384": ((1, 13), (1, 6), (1, 3), (1,)),
    "coco": ((1, 28), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3)),
    "ade20k": ((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2)),
    "ade20k_large": ((1, 20), (1, 5, 1, 10), (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5), (1, 2)),
    "mask2former": ((1, 14), (1, 4, 1, 7), (*(1, 2, 1, 3) * 4, 1, 3), (1,)),  # with neighbourhoods of 11 x 11
    # DiNAT_s has two blocks in its second stage
    "s_coco": ((1, 28), (1, 14), (1, 3, 1, 5, 1, 7), (1, 3)),
    "s_ade20k": ((1, 16), (1, 8), (1, 2, 1, 3, 1, 4), (1, 2)),
    "s_ade20k_large": ((1, 20), (1, 10), (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5), (1, 2)),
}


@dataclass(frozen=True, kw_only=True)
class NATConfig:
    embed_dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 18, 5)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    kernel_size: int = 7
    dilations: str | Dilations = "none"  # a name in DILATIONS, or those of the blocks of each stage, repeated
    mlp_ratio: float = 3
    layer_scale: bool = False
    heads_shared: tuple[int, ...] | None = None  # mixture of heads (MoH): how many are always on, by stage
    heads_on: tuple[int, ...] = (0, 0, 0, 0)  # how many of the others a token chooses

    def __post_init__(self) -> None:
        if isinstance(self.dilations, str):
            if self.dilations not in DILATIONS:
                raise ValueError(f"no dilations are called {self.dilations!r}; there are {', '.join(DILATIONS)}")
        elif len(self.dilations) != len(self.depths) or not all(self.dilations):
            raise ValueError(f"dilations {self.dilations} must have a list for each of {len(self.depths)} stages")

    def stage_dilations(self, index: int) -> list[int]:
        """Dilation of each block of a stage."""
        dilations = DILATIONS[self.dilations] if isinstance(self.dilations, str) else self.dilations
        return list(itertools.islice(itertools.cycle(dilations[index]), self.depths[index]))


class ConvStem(nn.Module):
    """Two strided convolutions with nothing between them. x: (B, H, W, in_chans) -> (B, ceil(H/4), ceil(W/4), dim)"""

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, 2, 1, **dd),
            nn.Conv2d(dim // 2, dim, 3, 2, 1, **dd),
        )
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, to_nchw, self.proj, to_nhwc, self.norm)


class ConvDownsample(nn.Module):
    """Strided convolution without bias. x: (B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), out_dim)"""

    def __init__(self, dim: int, out_dim: int, **dd: Any) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, out_dim, 3, 2, 1, bias=False, **dd)
        self.norm = nn.LayerNorm(out_dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, to_nchw, self.reduction, to_nhwc, self.norm)


class PatchMerging(nn.Module):
    """Swin's: the pixels of each 2x2 block side by side, padded with zeros, then a norm and a projection.

    x: (B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), out_dim). The order within a block is by columns.
    """

    def __init__(self, dim: int, out_dim: int, **dd: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, **dd)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), out_dim); copies the map."""
        x = pad_to_multiple(x, 2)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return sequential(x, self.norm, self.reduction)


class Block(nn.Module):
    """x + ls1 * attention(LN(x)), then x + ls2 * mlp(LN(x)). x: (B, H, W, dim) -> (B, H, W, dim)"""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int,
        mlp_ratio: float,
        layer_scale: bool,
        drop_path: float,
        gate: HeadGate | None = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.attn = NeighborhoodAttention(dim, num_heads, kernel_size, dilation, gate=gate, **dd)
        self.ls1 = LayerScale(dim, 1e-5, **dd) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)
        self.ls2 = LayerScale(dim, 1e-5, **dd) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def _hugging_face(model: str) -> tuple[tuple[str | tuple[str, ...], str], ...]:
    """Keys of transformers' NatForImageClassification and DinatForImageClassification."""
    qkv = tuple(f".attention.self.{name}." for name in ("query", "key", "value"))
    return (
        (f"{model}.embeddings.patch_embeddings.projection.", "stem.proj."),
        (f"{model}.embeddings.", "stem."),
        (f"{model}.encoder.levels.{{i}}.layers.{{j}}.", "stages.{i}.blocks.{j}."),
        (f"{model}.encoder.levels.{{i}}.downsample.", "stages.{i+1}.downsample."),
        (f"{model}.layernorm.", "norm."),
        (".layernorm_before.", ".norm1."),
        (".layernorm_after.", ".norm2."),
        (qkv, ".attn.qkv."),
        (".attention.self.rpb", ".attn.rpb"),
        (".attention.output.dense.", ".attn.proj."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
        ("classifier.", "head.fc."),
    )


class NAT(PyramidBackbone):
    """NAT, DiNAT: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2204.07143, arXiv:2209.15001."""

    checkpoint_layouts = {
        # classification, detection and segmentation code; the latter two have a norm a level in place of the last
        "official": (
            ("patch_embed.", "stem."),
            ("levels.{i}.downsample.", "stages.{i+1}.downsample."),
            ("levels.", "stages."),
            (".gamma{i}", ".ls{i}.gamma"),
            ("norm{i}.", "out_norms.{i}."),
            ("head.", "head.fc."),
        ),
        "huggingface": _hugging_face("dinat"),
        "huggingface_nat": _hugging_face("nat"),
    }

    def build_stem(self, cfg: NATConfig, in_chans: int, **dd: Any) -> nn.Module:
        return ConvStem(in_chans, cfg.embed_dims[0], **dd)

    def build_downsample(self, dim: int, out_dim: int, **dd: Any) -> nn.Module:
        """Module that halves the sides of a map."""
        return ConvDownsample(dim, out_dim, **dd)

    def build_stage(self, cfg: NATConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        dim, num_heads = cfg.embed_dims[index], cfg.num_heads[index]

        def gate() -> HeadGate | None:
            if cfg.heads_shared is None:
                return None
            return HeadGate(dim, num_heads, cfg.heads_shared[index], cfg.heads_on[index], **dd)

        blocks: list[nn.Module] = [
            Block(dim, num_heads, cfg.kernel_size, dilation, cfg.mlp_ratio, cfg.layer_scale, rate, gate(), **dd)
            for dilation, rate in zip(cfg.stage_dilations(index), drop_paths, strict=True)
        ]
        downsample = None if index == 0 else self.build_downsample(cfg.embed_dims[index - 1], dim, **dd)
        return Stage(downsample, blocks)

    def build_norm(self, cfg: NATConfig, **dd: Any) -> nn.Module:
        return nn.LayerNorm(cfg.embed_dims[-1], **dd)

    def no_weight_decay(self) -> set[str]:
        return {key for key, _ in self.named_parameters() if key.endswith(".rpb")}

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take apart the pairs of layer scales that transformers keeps in one tensor."""
        pair = "layer_scale_parameters"
        for key in [key for key in state_dict if key.endswith(pair)]:
            first, second = state_dict.pop(key)
            block = key.removesuffix(pair)
            state_dict |= {f"{block}ls1.gamma": first, f"{block}ls2.gamma": second}
        return state_dict


class DiNATS(NAT):
    """DiNAT_s: the blocks of DiNAT in Swin's layout of stem and merging. Source: arXiv:2209.15001, section 4."""

    checkpoint_layouts = {
        "official": (
            ("patch_embed.", "stem."),
            ("layers.{i}.downsample.", "stages.{i+1}.downsample."),
            ("layers.", "stages."),
            ("norm{i}.", "out_norms.{i}."),
            ("head.", "head.fc."),
        ),
    }

    def build_stem(self, cfg: NATConfig, in_chans: int, **dd: Any) -> nn.Module:
        dim = cfg.embed_dims[0]
        return PatchEmbed(in_chans, dim, 4, 4, pad=True, post_norm=nn.LayerNorm(dim, **dd), **dd)

    def build_downsample(self, dim: int, out_dim: int, **dd: Any) -> nn.Module:
        return PatchMerging(dim, out_dim, **dd)


def _dims(width: int) -> dict[str, Any]:
    """Widths that double, in heads of 32 channels."""
    dims = tuple(width * 2**i for i in range(4))
    return {"embed_dims": dims, "num_heads": tuple(dim // 32 for dim in dims)}


_TEST: dict[str, Any] = {"embed_dims": (16, 32, 64, 96), "num_heads": (1, 2, 4, 6), "kernel_size": 3, "mlp_ratio": 2}
_LARGE: dict[str, Any] = {**_dims(192), "mlp_ratio": 2}

_NAT_VARIANTS = {  # Table 1 of arXiv:2204.07143, section 4 of arXiv:2209.15001, and the released code
    "nat_mini": NATConfig(depths=(3, 4, 6, 5)),
    "nat_tiny": NATConfig(),
    "nat_small": NATConfig(**_dims(96), mlp_ratio=2, layer_scale=True),
    "nat_base": NATConfig(**_dims(128), mlp_ratio=2, layer_scale=True),
    "dinat_mini": NATConfig(depths=(3, 4, 6, 5), dilations="224"),
    "dinat_tiny": NATConfig(dilations="224"),
    "dinat_small": NATConfig(**_dims(96), mlp_ratio=2, dilations="224"),  # unlike NAT's, without layer scale
    "dinat_base": NATConfig(**_dims(128), mlp_ratio=2, layer_scale=True, dilations="224"),
    "dinat_large": NATConfig(**_LARGE, dilations="224"),
    "dinat_large_384": NATConfig(**_LARGE, dilations="384"),
    "dinat_large_k11_384": NATConfig(**_LARGE, dilations="224", kernel_size=11),
    "test_nat": NATConfig(**_TEST, depths=(1, 1, 2, 1), layer_scale=True),
    "test_dinat": NATConfig(**_TEST, depths=(2, 1, 2, 1), dilations=((1, 4), (2,), (1, 2), (1,))),
    "test_nat_moh": NATConfig(
        **_TEST | {"num_heads": (2, 4, 4, 6)},  # two shared ones in each stage: one alone has no gate to learn
        depths=(1, 1, 2, 1),
        heads_shared=(2, 2, 2, 3),
        heads_on=(0, 1, 1, 2),
    ),
}

_S_VARIANTS = {
    "dinat_s_tiny": NATConfig(**_dims(96), depths=(2, 2, 6, 2), mlp_ratio=4, dilations="224"),
    "dinat_s_small": NATConfig(**_dims(96), depths=(2, 2, 18, 2), mlp_ratio=4, dilations="224"),
    "dinat_s_base": NATConfig(**_dims(128), depths=(2, 2, 18, 2), mlp_ratio=4, dilations="224"),
    "dinat_s_large": NATConfig(**_dims(192), depths=(2, 2, 18, 2), mlp_ratio=4, dilations="224"),
    "dinat_s_large_384": NATConfig(**_dims(192), depths=(2, 2, 18, 2), mlp_ratio=4, dilations="384"),
    "test_dinat_s": NATConfig(**_TEST, depths=(2, 1, 2, 1), dilations=((1, 2), (1,), (1, 2), (1,))),
}

VARIANTS = _NAT_VARIANTS | _S_VARIANTS


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
        "license": "mit",
        **kwargs,
    }


_NAT = "https://shi-labs.com/projects/nat/checkpoints/CLS"
_DINAT = "https://shi-labs.com/projects/dinat/checkpoints"
_S: dict[str, Any] = {"first_conv": "stem.proj"}
_IN22K: dict[str, Any] = {"num_classes": 0}  # how many classes the files have is written nowhere: no classifier
_AT_384: dict[str, Any] = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0}
_TINY: dict[str, Any] = {"input_size": (3, 96, 96), "pool_size": (3, 3)}

default_cfgs = generate_default_cfgs(
    {
        **{f"nat_{size}.in1k": _cfg(f"{_NAT}/nat_{size}.pth") for size in ("mini", "tiny", "small", "base")},
        **{
            f"dinat_{size}.in1k": _cfg(f"{_DINAT}/imagenet1k/dinat_{size}_in1k_224.pth")
            for size in ("mini", "tiny", "small", "base")
        },
        "dinat_large.in22k_ft_in1k": _cfg(f"{_DINAT}/imagenet1k/dinat_large_in22k_in1k_224.pth"),
        "dinat_large.in22k": _cfg(f"{_DINAT}/imagenet22k/dinat_large_in22k_224.pth", **_IN22K),
        "dinat_large_384.in22k_ft_in1k": _cfg(f"{_DINAT}/imagenet1k/dinat_large_in22k_in1k_384.pth", **_AT_384),
        "dinat_large_384.in22k": _cfg(
            f"{_DINAT}/imagenet22k/dinat_large_in22k_224.pth", **_IN22K
        ),  # what it begins with
        "dinat_large_k11_384.in22k_ft_in1k": _cfg(
            f"{_DINAT}/imagenet1k/dinat_large_in22k_in1k_384_11x11.pth", **_AT_384
        ),
        # dinat_large.in22k with its tables of biases resized
        "dinat_large_k11_384.in22k": _cfg(f"{_DINAT}/imagenet22k/dinat_large_in22k_224_11x11interp.pth", **_IN22K),
        **{
            f"dinat_s_{size}.in1k": _cfg(f"{_DINAT}/imagenet1k/dinat_s_{size}_in1k_224.pth", **_S)
            for size in ("tiny", "small", "base")
        },
        "dinat_s_large.in22k_ft_in1k": _cfg(f"{_DINAT}/imagenet1k/dinat_s_large_in1k_224.pth", **_S),
        "dinat_s_large.in22k": _cfg(f"{_DINAT}/imagenet22k/dinat_s_large_in22k_224.pth", **_S, **_IN22K),
        "dinat_s_large_384.in22k_ft_in1k": _cfg(f"{_DINAT}/imagenet1k/dinat_s_large_in1k_384.pth", **_S, **_AT_384),
        "dinat_s_large_384.in22k": _cfg(f"{_DINAT}/imagenet22k/dinat_s_large_in22k_224.pth", **_S, **_IN22K),
        "test_nat": _cfg(**_TINY),
        "test_dinat": _cfg(**_TINY),
        "test_nat_moh": _cfg(**_TINY),
        "test_dinat_s": _cfg(**_TINY, **_S),
    }
)

(
    nat_mini,
    nat_tiny,
    nat_small,
    nat_base,
    dinat_mini,
    dinat_tiny,
    dinat_small,
    dinat_base,
    dinat_large,
    dinat_large_384,
    dinat_large_k11_384,
    test_nat,
    test_dinat,
    test_nat_moh,
) = register_variants(NAT, _NAT_VARIANTS)
(
    dinat_s_tiny,
    dinat_s_small,
    dinat_s_base,
    dinat_s_large,
    dinat_s_large_384,
    test_dinat_s,
) = register_variants(DiNATS, _S_VARIANTS)
