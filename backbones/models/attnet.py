"""AttNet: a convolutional pyramid whose depthwise kernels are made from the image.

A 3x3 kernel for each sample and channel comes from nine means of the channel ("attentive convolution"), which gives a
convolution what self-attention has: weights that depend on the input, and rivalry between them. There is no softmax and
no position encoding, and the cost is linear in pixels.

Yu, Chen, Jiang, Peng, Sun, Kaski, Zhao, "Attentive Convolution: Unifying the Expressivity of Self-Attention with
Convolutional Efficiency", arXiv:2510.20092.
Reference code: price112/Attentive-Convolution @ f4f5a39 (MIT).

Sizes: any from 32 pixels up; level i has ceil(H / stride_i) rows. The kernels depend on the whole map, so padding an
image, as a batch of images of different sizes does, changes its features.
Differs from the reference: nothing known.
"""

from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerScale, trunc_normal_
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, shortcut
from backbones.layers import AttentiveConv, ClassifierHead, ConvGLU, PatchEmbed
from backbones.models._pyramid import PyramidBackbone, Stage
from backbones.models._registry import register_variants

__all__ = ["AttNet", "AttNetConfig"]


@dataclass(frozen=True, kw_only=True)
class AttNetConfig:
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)  # two thirds of it in the gated MLP, rounded down twice
    layer_scale: bool = True
    mlp_norm: bool = True  # RMSNorm within the MLP


def conv_norm(in_chans: int, dim: int, **dd: Any) -> PatchEmbed:
    """3x3 convolution of stride 2 without bias, and BatchNorm."""
    return PatchEmbed(in_chans, dim, 3, 2, padding=1, bias=False, post_norm=nn.BatchNorm2d(dim, **dd), **dd)


class Stem(nn.Module):
    """Two strided convolutions with a GELU between them. x: (B, H, W, in_chans) -> (B, H', W', dim)"""

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_chans, dim // 2, **dd)
        self.act = nn.GELU()
        self.conv2 = conv_norm(dim // 2, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, self.conv1, self.act, self.conv2)


class Block(nn.Module):
    """x + ls1 * conv(LN(x)), then x + ls2 * mlp(LN(x)). x: (B, H, W, dim) -> (B, H, W, dim)"""

    def __init__(self, cfg: AttNetConfig, index: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        dim, ratio = cfg.embed_dims[index], cfg.mlp_ratios[index]
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.token_mixer = AttentiveConv(dim, **dd)
        self.ls1 = LayerScale(dim, 1e-6, **dd) if cfg.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.mlp = ConvGLU(dim, 2 * ratio * dim // 3, cfg.mlp_norm, **dd)
        self.ls2 = LayerScale(dim, 1e-6, **dd) if cfg.layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mixer = shortcut(self.norm1, self.token_mixer, self.ls1, self.drop_path)
        mlp = shortcut(self.norm2, self.mlp, self.ls2, self.drop_path)
        return sequential(x, mixer, mlp)


class AttNet(PyramidBackbone):
    """AttNet: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2510.20092."""

    checkpoint_layouts = {
        "official": (
            ("downsample_layers.0.0.0.", "stem.conv1.proj."),
            ("downsample_layers.0.0.1.", "stem.conv1.norm."),
            ("downsample_layers.0.2.0.", "stem.conv2.proj."),
            ("downsample_layers.0.2.1.", "stem.conv2.norm."),
            ("downsample_layers.{i}.0.", "stages.{i}.downsample.proj."),
            ("downsample_layers.{i}.1.", "stages.{i}.downsample.norm."),
            ("stages.{i}.{j}.", "stages.{i}.blocks.{j}."),
            (".channel_mixer.norm_layer.", ".mlp.norm."),
            (".channel_mixer.", ".mlp."),
            (".layer_scale_{i}.", ".ls{i}."),
            (".norm_{i}.", ".norm{i}."),
            ("norm.", "head.norm."),
            ("head.", "head.fc."),
        ),
    }
    checkpoint_dims = {
        "official": dict.fromkeys((".kernel_proj.weight", ".x_proj.weight", ".proj.weight", ".fc{i}.weight"), 4)
    }

    def build_stem(self, cfg: AttNetConfig, in_chans: int, **dd: Any) -> nn.Module:
        return Stem(in_chans, cfg.embed_dims[0], **dd)

    def build_stage(self, cfg: AttNetConfig, index: int, drop_paths: list[float], **dd: Any) -> Stage:
        downsample = None if index == 0 else conv_norm(cfg.embed_dims[index - 1], cfg.embed_dims[index], **dd)
        return Stage(downsample, [Block(cfg, index, rate, **dd) for rate in drop_paths])

    def build_head(self, cfg: AttNetConfig, num_classes: int, **kwargs: Any) -> ClassifierHead:
        dd = {key: kwargs[key] for key in ("device", "dtype")}
        return ClassifierHead(cfg.embed_dims[-1], num_classes, norm=nn.LayerNorm(cfg.embed_dims[-1], **dd), **kwargs)

    def init_module(self, module: nn.Module) -> None:
        """Linear layers and convolutions: truncated normal, std 0.02."""
        if isinstance(module, nn.Conv2d):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            super().init_module(module)


VARIANTS = {  # classes of the authors' code
    "attnet_xxs": AttNetConfig(embed_dims=(32, 64, 128, 240), depths=(2, 2, 4, 2), layer_scale=False, mlp_norm=False),
    "attnet_xs": AttNetConfig(embed_dims=(40, 80, 160, 320), depths=(2, 2, 7, 2), mlp_norm=False),
    "attnet_s": AttNetConfig(embed_dims=(40, 80, 160, 320), depths=(2, 3, 10, 3), layer_scale=False, mlp_norm=False),
    "attnet_t1": AttNetConfig(embed_dims=(48, 96, 224, 384), depths=(2, 3, 12, 3)),
    "attnet_t2": AttNetConfig(embed_dims=(64, 128, 288, 512), depths=(3, 3, 16, 3)),
    "attnet_t3": AttNetConfig(embed_dims=(72, 144, 320, 576), depths=(4, 4, 26, 4)),
    "attnet_t4": AttNetConfig(embed_dims=(96, 192, 384, 768), depths=(5, 5, 28, 5)),
    "test_attnet": AttNetConfig(embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4)),
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
        "first_conv": "stem.conv1.proj",
        "classifier": "head.fc",
        "license": "mit",
        **kwargs,
    }


# By hand: a folder for a browser. The training script puts epoch and accuracy into the names of its files.
_FOLDER = (
    "https://unioulu-my.sharepoint.com/:f:/g/personal/hayu23_univ_yo_oulu_fi/"
    "EtaWTnsh1ytNgsIYetHHwt4B1RxG_HDHN70a3NOq3fustw?e=MZ4w5w"
)

default_cfgs = generate_default_cfgs(
    {
        "attnet_xxs.in1k": _cfg(f"{_FOLDER}#file=AttNet_XXS_*.pth"),
        "attnet_xs.in1k": _cfg(f"{_FOLDER}#file=AttNet_XS_*.pth"),
        "attnet_s.in1k": _cfg(f"{_FOLDER}#file=AttNet_S_*.pth"),
        "attnet_t1.in1k": _cfg(f"{_FOLDER}#file=AttNet_T1_*.pth"),
        "attnet_t2.in1k": _cfg(f"{_FOLDER}#file=AttNet_T2_*.pth"),
        "attnet_t3.in1k": _cfg(f"{_FOLDER}#file=AttNet_T3_*.pth"),
        "attnet_t4.in1k": _cfg(f"{_FOLDER}#file=AttNet_T4_*.pth"),
        "test_attnet": _cfg(input_size=(3, 96, 96), pool_size=(3, 3)),
    }
)

attnet_xxs, attnet_xs, attnet_s, attnet_t1, attnet_t2, attnet_t3, attnet_t4, test_attnet = register_variants(
    AttNet, VARIANTS
)
