"""iLLaMA: a plain vision transformer made of LLaMA's decoder blocks.

RMSNorm, rotary positions, SwiGLU and causal attention over the patches in raster order. Two tricks make it train: the
class token stands after the patches, so that it sees them all, and the causal mask is soft in the first epochs.

Wang et al., "Adapting LLaMA Decoder to Vision Transformer", arXiv:2404.06773.
Reference code: techmonsterwang/iLLaMA @ dfc93b9 (no licence; the published weights are Apache-2.0).

The mask multiplies the softmax, as in the published weights, not the scores: see ``CausalRopeAttention``.
``set_soft_mask_rate`` moves it from causal (0, the default, and the state for evaluation) to bidirectional (1), and
``soft_mask_rate`` is the authors' schedule of it.

Sizes: an image is padded with zeros at the bottom and right to whole patches of 16 x 16. The learned position table
belongs to one image size: ``img_size`` sets it, ``set_input_size`` and loading a checkpoint resize it, and with
``dynamic_img_size=True`` every forward resizes it to the image's own grid, so that any size from 32 pixels up works.
Checkpoints of models for images that are not square record the grid; without a record it is square, as published.
Rotary positions count the tokens at hand in raster order; nothing is interpolated.

Differs from the reference: with half types the RMSNorm weight multiplies before the result is cast back, not after.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, is_exporting, register_notrace_module, to_2tuple, trunc_normal_
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc
from backbones.layers import CausalRopeAttention, ClassifierHead, SwiGLU
from backbones.layers.functional import pad_to_multiple, rotary_table
from backbones.models._backbone import check_output_fmt
from backbones.models._pyramid import PyramidBackbone, image_to_map, update_model_input_size
from backbones.models._registry import register_variants
from backbones.models._tokens import TokenBackbone, TokenStage

__all__ = ["ILLaMA", "ILLaMAConfig", "soft_mask_rate"]

PATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class ILLaMAConfig:
    embed_dims: tuple[int] = (192,)
    depths: tuple[int] = (12,)
    num_heads: tuple[int] = (3,)
    img_size: int | tuple[int, int] = 224  # (height, width) that the position table is made for
    dynamic_img_size: bool = False  # resize the position table to each image

    def __post_init__(self) -> None:
        if min(to_2tuple(self.img_size)) < 32:
            raise ValueError(f"img_size {self.img_size} is below 32 pixels: make both sides at least 32")

    @property
    def hidden_dim(self) -> int:
        """Width of the SwiGLU: LLaMA's rule, two thirds of 4 * dim, rounded up to a multiple of 256."""
        return 256 * math.ceil(2 * 4 * self.embed_dims[0] // 3 / 256)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = to_2tuple(self.img_size)
        return math.ceil(height / PATCH_SIZE), math.ceil(width / PATCH_SIZE)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resample a position table bicubically, all but its last slot, which is the class token's.

    table: (1, old rows * columns + 1, C) -> (1, new rows * columns + 1, C)
    """
    grid = table[:, :-1].view(1, old[0], old[1], table.shape[-1])
    grid = to_nhwc(F.interpolate(to_nchw(grid).float(), size=new, mode="bicubic")).flatten(1, 2)
    return torch.cat([grid.to(table.dtype), table[:, -1:]], dim=1)


@register_notrace_module
class TokenEmbed(nn.Module):
    """Patches, then the class token, plus learned positions.

    x: (B, H, W, in_chans) -> (B, N + 1, dim), N = ceil(H / 16) * ceil(W / 16), class token last.

    Args:
        in_chans: Channels of the image.
        dim: Channels of the tokens.
        grid: Rows and columns of patches that the position table is made for.
        dynamic: Resize the position table to each image.

    Raises:
        ValueError: If an image gives another grid and ``dynamic`` is off.
    """

    def __init__(
        self, in_chans: int, dim: int, grid: tuple[int, int], dynamic: bool = False, device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.dynamic = dynamic
        self.proj = nn.Conv2d(in_chans, dim, PATCH_SIZE, PATCH_SIZE, **dd)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **dd))
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1] + 1, dim, **dd))
        self.set_grid(grid)
        self.reset_parameters()

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Set the grid of the position table, and record it in checkpoints where it is not a square."""
        self.grid = grid
        self._buffers.pop("grid_size", None)
        if grid[0] != grid[1]:
            self.register_buffer("grid_size", torch.tensor(grid, device=self.pos_embed.device))

    def reset_parameters(self) -> None:
        """Draw the class token and the position table."""
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        self.set_grid(self.grid)

    def resize(self, grid: tuple[int, int]) -> None:
        """Resample the position table."""
        table = resize_positions(self.pos_embed.detach(), self.grid, grid)
        self.pos_embed = nn.Parameter(table, self.pos_embed.requires_grad)
        self.set_grid(grid)

    def positions(self, height: int, width: int) -> Tensor:
        """Position table of a grid, (1, height * width + 1, dim)."""
        rows, columns = self.grid
        # An exported program must not fix the size, and resizing to the same size changes nothing.
        if self.dynamic and (is_exporting() or height != rows or width != columns):
            return resize_positions(self.pos_embed, self.grid, (height, width))
        if not self.dynamic and (height != rows or width != columns):
            raise ValueError(
                f"the image has {height} x {width} patches, the position table {rows} x {columns}: "
                "build the model with img_size=, call set_input_size, or use dynamic_img_size=True"
            )
        return self.pos_embed

    def forward(self, x: Tensor) -> Tensor:
        x = sequential(pad_to_multiple(x, PATCH_SIZE), to_nchw, self.proj, to_nhwc)  # (B, H / 16, W / 16, dim)
        positions = self.positions(x.shape[1], x.shape[2])
        return torch.cat([x.flatten(1, 2), self.cls_token.expand(x.shape[0], -1, -1)], dim=1) + positions


class Block(nn.Module):
    """x + attention(RMS(x)), then x + mlp(RMS(x)). x: (B, N + 1, dim), rope: see ``CausalRopeAttention``"""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-6, **dd)
        self.attn = CausalRopeAttention(dim, num_heads, **dd)
        self.norm2 = nn.RMSNorm(dim, eps=1e-6, **dd)
        self.mlp = SwiGLU(dim, hidden_dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), rope))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class RotaryStage(TokenStage):
    """Blocks that share the rotary table of their tokens. x: (B, N + 1, dim) -> (B, N + 1, dim)"""

    def __init__(self, blocks: list[nn.Module], head_dim: int) -> None:
        super().__init__(blocks)
        self.head_dim = head_dim

    def forward(self, x: Tensor, **options: Any) -> Tensor:  # type: ignore[override]
        return super().forward(x, rotary_table(x, self.head_dim), **options)


class TokenPool(nn.Module):
    """The class token ("token"), the mean of the patches ("avg"), or all tokens (""): (B, N + 1, C) -> (B, C)"""

    def __init__(self, pool_type: str) -> None:
        super().__init__()
        self.pool_type = pool_type

    def forward(self, x: Tensor) -> Tensor:
        if self.pool_type == "token":
            return x[:, -1]
        if self.pool_type == "avg":
            return x[:, :-1].mean(dim=1)
        return x


class TokenHead(ClassifierHead):
    """Classifier head on tokens: (B, N + 1, C) -> (B, num_classes)."""

    pool_types = ("token", "avg", "")

    def build_pool(self, pool_type: str) -> nn.Module:
        return TokenPool(pool_type)


class ILLaMA(TokenBackbone, PyramidBackbone):
    """iLLaMA: images (B, in_chans, H, W) -> logits (B, num_classes). Source: arXiv:2404.06773.

    The one-stage case of the skeleton: ``forward_features`` gives tokens (B, N + 1, C), class token last, and the
    features are the patches after each block as maps of stride 16. ``global_pool`` is "token", "avg" (of the patches)
    or "".
    """

    output_fmt = "NLC"
    strides = (PATCH_SIZE,)

    checkpoint_layouts = {
        "official": (
            ("cls_token", "stem.cls_token"),
            ("pos_embed", "stem.pos_embed"),
            ("patch_embed.", "stem."),
            ("blocks.", "stages.0.blocks."),
            (".mlp.fc1.", ".mlp.fc1_g."),
            (".mlp.fc3.", ".mlp.fc1_x."),
            ("head.", "head.fc."),
        ),
    }

    def __init__(
        self,
        cfg: ILLaMAConfig,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(cfg, in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype)
        self.feature_info = self.block_info(cfg.depths[0], self.num_features, PATCH_SIZE)

    def build_stem(self, cfg: ILLaMAConfig, in_chans: int, **dd: Any) -> nn.Module:
        return TokenEmbed(in_chans, cfg.embed_dims[0], cfg.grid, cfg.dynamic_img_size, **dd)

    def build_stage(self, cfg: ILLaMAConfig, index: int, drop_paths: list[float], **dd: Any) -> TokenStage:
        dim, num_heads = cfg.embed_dims[index], cfg.num_heads[index]
        blocks: list[nn.Module] = [Block(dim, num_heads, cfg.hidden_dim, rate, **dd) for rate in drop_paths]
        return RotaryStage(blocks, dim // num_heads)

    def build_norm(self, cfg: ILLaMAConfig, **dd: Any) -> nn.Module:
        return nn.RMSNorm(cfg.embed_dims[-1], eps=1e-6, **dd)

    def build_head(self, cfg: ILLaMAConfig, num_classes: int, **kwargs: Any) -> ClassifierHead:
        return TokenHead(cfg.embed_dims[-1], num_classes, **kwargs)

    def no_weight_decay(self) -> set[str]:
        return {"stem.cls_token", "stem.pos_embed"}

    def set_soft_mask_rate(self, rate: float) -> None:
        """Soften the causal mask of every block: 0 is causal, 1 bidirectional.

        Raises:
            ValueError: If ``rate`` is outside 0 to 1.
        """
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"the soft mask rate goes from 0 (causal) to 1 (bidirectional), got {rate}")
        for module in self.modules():
            if isinstance(module, CausalRopeAttention):
                module.soft_mask_rate = float(rate)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize the position table to images of this size, (height, width) or the side of a square."""
        self.cfg = dataclasses.replace(self.cfg, img_size=img_size)
        self.stem.resize(self.cfg.grid)
        update_model_input_size(self, img_size)

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize the position table to the model's, from the grid that the file records, else from a square."""
        table, recorded = state_dict.get("stem.pos_embed"), state_dict.pop("stem.grid_size", None)
        if table is not None and table.ndim == 3:
            patches, grid = table.shape[1] - 1, self.stem.grid
            side = math.isqrt(patches)
            old = (side, side) if recorded is None else tuple(recorded.tolist())
            if old != grid and old[0] * old[1] == patches:
                state_dict["stem.pos_embed"] = resize_positions(table, old, grid)
            if hasattr(self.stem, "grid_size"):
                state_dict["stem.grid_size"] = torch.tensor(grid)
        return state_dict

    def drop_head(self) -> None:
        self.reset_classifier(0, "")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        return_prefix_tokens: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Patches after blocks, as maps.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Blocks to take: the last n if an int, all if None.
            norm: Apply the model's final norm to what is returned.
            stop_early: Run no block after the last one taken.
            output_fmt: "NCHW" for (B, C, ceil(H / 16), ceil(W / 16)) views, "NHWC", or "NLC" for (B, N, C).
            intermediates_only: Return the list alone, otherwise (final tokens (B, N + 1, C), list).
            return_prefix_tokens: Return pairs of the patches and the class token (B, 1, C). The name is timm's; here
                the class token stands last.
        """
        check_output_fmt(output_fmt, ("NCHW", "NHWC", "NLC"))
        # rounded up; pt2 files cannot store math.ceil of an open size
        rows, columns = (-(-side // PATCH_SIZE) for side in x.shape[2:])
        tokens = self.stem(image_to_map(x, self.in_chans))
        tokens, taken = self.run_stage(tokens, indices=indices, stop_early=stop_early)
        intermediates, class_tokens = [], []
        for y in taken:
            if norm:
                y = self.norm(y)
            class_tokens.append(y[:, -1:])
            y = y[:, :-1]
            if output_fmt != "NLC":
                y = y.unflatten(1, (rows, columns))
            intermediates.append(to_nchw(y) if output_fmt == "NCHW" else y)
        if return_prefix_tokens:
            intermediates = list(zip(intermediates, class_tokens, strict=True))
        if intermediates_only:
            return intermediates
        return self.norm(tokens), intermediates


def soft_mask_rate(progress: float, schedule: str = "linear") -> float:
    """The authors' schedule of the soft mask, for ``ILLaMA.set_soft_mask_rate`` before each iteration.

    Args:
        progress: Iterations done over iterations until the cut-off: 0 at the start, 1 at the cut-off epoch and after.
        schedule: "constant" (1 until the cut-off, then 0) or "linear" (falls from 1 at the start to 0 at the cut-off).

    Raises:
        ValueError: If ``schedule`` is neither.
    """
    if schedule == "constant":
        return 1.0 if progress < 1.0 else 0.0
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    raise ValueError(f"soft mask schedule {schedule!r} is neither 'constant' nor 'linear'")


VARIANTS = {  # as released
    "illama_tiny": ILLaMAConfig(),
    "illama_small": ILLaMAConfig(embed_dims=(384,), num_heads=(6,)),
    "illama_base": ILLaMAConfig(embed_dims=(768,), num_heads=(12,)),
    "illama_large": ILLaMAConfig(embed_dims=(1024,), depths=(24,), num_heads=(16,)),
    "test_illama": ILLaMAConfig(embed_dims=(64,), depths=(4,), num_heads=(2,), img_size=96),
}


def _cfg(file: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": f"https://huggingface.co/techmonsterwang/iLLaMA/resolve/main/{file}" if file else "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


_AT_384 = {"input_size": (3, 384, 384), "crop_pct": 1.0, "crop_mode": "squash"}

default_cfgs = generate_default_cfgs(
    {
        "illama_tiny.in1k": _cfg("illama-tiny-in1k-75.0.pth"),
        "illama_small.in1k": _cfg("illama-small-in1k-79.9.pth"),
        "illama_base.in21k_ft_in1k": _cfg("illama-base-in21kin1k-224-83.6.pth"),
        "illama_base.in21k_ft_in1k_384": _cfg("illama-base-in21kin1k-384-85.0.pth", **_AT_384),
        "illama_base.in1k": _cfg("illama-base-in1k-81.6.pth"),
        "illama_base.in1k_384": _cfg("illama-base-in1k-384-83.0.pth", **_AT_384),
        "illama_large.in21k_ft_in1k": _cfg("illama-large-in21kin1k-224-84.8.pth"),
        "illama_large.in21k_ft_in1k_384": _cfg("illama-large-in21kin1k-384-86.0.pth", **_AT_384),
        "test_illama": _cfg(input_size=(3, 96, 96)),
    }
)

illama_tiny, illama_small, illama_base, illama_large, test_illama = register_variants(ILLaMA, VARIANTS)
