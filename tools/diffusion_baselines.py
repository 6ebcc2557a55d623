"""Diffusion transformers with full attention, of diffusers, for the tools that count and time models.

    python -m backbones complexity ptdit_xl_text tools.diffusion_baselines:pixart_xl --img-size 128 --attention
    python -m backbones benchmark ptdit_s_class --baseline tools.diffusion_baselines:dit_s --img-size 128 --batch-size 1

``dit_b`` and ``pixart_b`` have the depth, width and heads of ``ptdit_b_*``, and so for the sizes s, b, l, xl and h;
``pixart_xl`` is PixArt-alpha. ``dit_b_2`` and ``ptdit_b_class_2`` have two blocks only, for machines on which the
whole is too slow to be timed. Sizes are of latents, as PT-DiT's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

import backbones

# Width, layers, heads. b768 is DiT-B as published, which is wider than PT-DiT-B.
SIZES = {
    "b768": (768, 12, 12),
    "s": (288, 10, 6),
    "b": (640, 12, 10),
    "l": (864, 28, 12),
    "xl": (1152, 28, 16),
    "h": (1440, 30, 20),
}
TOKENS, TEXT_DIM = 120, 4096  # of a text, as PT-DiT's ``example_inputs``


class Baseline(nn.Module):
    """One of diffusers' transformers, called like PT-DiT. Its table of positions is made for the size that is set."""

    def __init__(self, kind: str, size: str, depth: int | None = None) -> None:
        super().__init__()
        self.kind, self.size, self.depth = kind, size, depth
        self.set_input_size((32, 32))

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Build the model for latents of this size.

        Raises:
            ValueError: If they are not square, which diffusers' DiT needs.
        """
        from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel

        if img_size[0] != img_size[1]:
            raise ValueError(f"diffusers' DiT takes square latents only, got {img_size}")
        dim, depth, heads = SIZES[self.size]
        common = {"num_layers": self.depth or depth, "num_attention_heads": heads, "attention_head_dim": dim // heads}
        common |= {"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": img_size[0]}
        if self.kind == "dit":
            self.model = DiTTransformer2DModel(num_embeds_ada_norm=1000, **common)
        else:
            self.model = PixArtTransformer2DModel(
                cross_attention_dim=dim, caption_channels=TEXT_DIM, use_additional_conditions=False, **common
            )
        self.pretrained_cfg = {"input_size": (4, *img_size)}

    def example_inputs(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Random arguments of ``forward``: latents, times, and states of a text or classes."""
        device = next(self.model.parameters()).device
        x, times = torch.randn(batch, 4, height, width, device=device), torch.full((batch,), 500, device=device)
        if self.kind == "dit":
            return x, times, torch.zeros(batch, dtype=torch.long, device=device)
        return x, times, torch.randn(batch, TOKENS, TEXT_DIM, device=device)

    def forward(self, x: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        if self.kind == "dit":
            return self.model(x, times, condition, return_dict=False)[0]
        return self.model(x, condition, times, return_dict=False)[0]


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """``dit_b``, ``pixart_xl_2``, ``ptdit_xl_text_2``: a callable that builds the model; a number is of its blocks."""
    if match := re.fullmatch(rf"(dit|pixart)_({'|'.join(SIZES)})(?:_(\d+))?", name):
        kind, size, depth = match.groups()
        return lambda: Baseline(kind, size, int(depth) if depth else None)
    if match := re.fullmatch(r"(ptdit_[a-z]+_(?:class|text))_(\d+)", name):
        return lambda: backbones.create_model(match[1], depth=int(match[2]))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
