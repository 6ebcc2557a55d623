"""PT-DiT: a diffusion transformer whose only global attention is among proxy tokens, the means of windows.

Every block lets the proxies attend to each other and every token to the proxies, adds attention inside windows and
inside windows shifted by half, then cross-attention to a text where there is one, and an MLP. The cost is linear in
the number of tokens as long as the number of windows stays the same.

Wang, Ma, Feng, Leng, Yin, Liang, "Qihoo-T2X: An Efficient Proxy-Tokenized Diffusion Transformer for Text-to-Any-Task",
arXiv:2409.04005 (ICLR 2025 as "PT-T2I/V").
Reference code: mindspeed_mm/models/predictor/dits/pt_dit_diffusers.py of Ascend/MindSpeed-MM @ 2e7ccce6 (Apache-2.0).

Sizes: images (B, C, H, W) and videos (B, C, F, H, W), sides multiples of the patch. The grid of patches is padded to
whole windows and cropped after; the padding is not attended to. Positions, masks and orders of tokens are tables of
the size, made once for the sizes last used. Times go from 0 (data) to 1000 (noise), and need not be whole.

Variants: ``*_text`` have the released structure (text through cross-attention, one modulation shared by all blocks).
``*_class`` follow the paper's ablations: class embedding added to that of the time, no cross-attention, and a
modulation of its own for every block and for its proxies; with ``num_classes=0`` they are unconditional.

Differs from the reference: every sample of a batch is modulated by its own time (there windows and times are paired
wrongly if times differ); positions are right for grids that are not square (scrambled there); masks follow the size
(kept from the first call there); times are not rounded with half types; sizes need not be multiples of the window.
Where the release has PyTorch's initialisation, this has DiT's: Xavier, and zero for what closes a branch and for the
last layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers import (
    BlockModulation,
    LatentEmbed,
    Mlp,
    MultiHeadAttention,
    ProxyTokenAttention,
    SharedModulation,
    TextEmbed,
    TimeEmbed,
)
from backbones.layers.functional import WindowGrid, attention_bias, class_labels, modulate, text_bias, window_grid
from backbones.models._backbone import check_output_fmt
from backbones.models._registry import register_variants
from backbones.models._tokens import TokenBackbone, TokenStage
from backbones.weights.released import read_ptdit_config

__all__ = ["PTDiT", "PTDiTConfig"]

# Tokens along the side of a square grid -> side of a window, so that there are 64 windows at every resolution: images
# of 256, 512, 1024 and 2048 pixels with patches of 2 x 2 latents of 8 x 8 pixels.
WINDOW_SIDES = {16: 2, 32: 4, 64: 8, 128: 16}
WINDOW_FRAMES = 4  # of videos, at every resolution


@dataclass(frozen=True, kw_only=True)
class PTDiTConfig:
    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 2  # latents
    out_chans: int | None = None  # as many as come in if None
    text_dim: int = 0  # width of the text encoder's states, 0 without text
    shared_modulation: bool = False  # one for all blocks
    window_size: tuple[int, int, int] | None = None  # frames, rows, columns of tokens; None: by WINDOW_SIDES
    proxy_size: tuple[int, int, int] | None = None  # what a proxy is the mean of; None: the window
    table_frames: int = 1  # of the table of positions that checkpoints store
    table_size: int = 32  # its side in latents
    feature_timestep: float = 0.0  # for features, where none is given

    def __post_init__(self) -> None:
        window, proxy = self.window_size, self.proxy_size
        if proxy is not None and window is None:
            raise ValueError(f"proxy_size {proxy} is a part of a window: give window_size too")
        if window is not None and proxy is not None and any(w % p for w, p in zip(window[1:], proxy[1:])):
            raise ValueError(f"window_size {window} is not a multiple of proxy_size {proxy}")

    def window(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Frames, rows and columns of the windows of a grid of tokens; of those not in the table, of the nearest."""
        if self.window_size is not None:
            return self.window_size
        *smaller, last = WINDOW_SIDES  # the nearest by ratio, not by difference
        side = WINDOW_SIDES[next((tokens for tokens in smaller if height * width <= 2 * tokens**2), last)]
        return (WINDOW_FRAMES if frames > 1 else 1, side, side)


@dataclass(frozen=True, eq=False)
class Scene:
    """What all blocks of a pass share.

    Attributes:
        grid: Windows of the tokens.
        proxy_size: Frames, rows and columns that a proxy is the mean of.
        bias, shifted_bias: (B * P, 1, n, n) or None, what hides tokens in windows and in shifted windows.
        cond: (B, dim), or (B, 6, dim) where the modulation is shared.
        text: (B, L, dim) or None.
        text_bias: (B, 1, 1, L) or None, what hides the text's padding.
    """

    grid: WindowGrid
    proxy_size: tuple[int, int, int]
    bias: Tensor | None
    shifted_bias: Tensor | None
    cond: Tensor
    text: Tensor | None
    text_bias: Tensor | None


class Block(nn.Module):
    """Proxies, windows, shifted windows, text, MLP, each added to x: (B, P, n, dim) -> (B, P, n, dim)

    Vectors of the modulation, in order: shift, scale, gate of the windows, of the MLP, of the shifted windows, and of
    the proxies where the block has a modulation of its own. A shared one has six vectors; the shifted windows take the
    windows' three, plus a table of their own.
    """

    def __init__(self, cfg: PTDiTConfig, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        dim, heads = cfg.embed_dim, cfg.num_heads
        self.shared_modulation = cfg.shared_modulation
        if cfg.shared_modulation:
            self.modulation = SharedModulation(dim, 6, **dd)
            self.shifted_modulation = SharedModulation(dim, 3, **dd)
        else:
            self.modulation = BlockModulation(dim, 12, **dd)
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proxy = ProxyTokenAttention(dim, heads, **dd)
        self.attn = MultiHeadAttention(dim, heads, **dd)
        self.shifted_attn = MultiHeadAttention(dim, heads, **dd)
        self.shifted_out = nn.Linear(dim, dim, **dd)
        self.text_attn = MultiHeadAttention(dim, heads, **dd) if cfg.text_dim else None
        self.mlp = Mlp(dim, 4 * dim, approximate="tanh", **dd)

    def vectors(self, cond: Tensor) -> list[Tensor]:
        """Shifts, scales and gates, each (B, 1, dim)."""
        vectors = self.modulation(cond)
        if self.shared_modulation:
            vectors = torch.cat([vectors, self.shifted_modulation(cond)], dim=1)
        return list(vectors[:, :, None].unbind(1))

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        grid, vectors = scene.grid, self.vectors(scene.cond)
        shift_w, scale_w, gate_w, shift_m, scale_m, gate_m, shift_s, scale_s, gate_s = (v[:, None] for v in vectors[:9])

        x = x + self.proxy(x, grid, scene.proxy_size, tuple(vectors[9:]) or None)

        y = modulate(self.norm(x), shift_w, scale_w)
        x = torch.addcmul(x, gate_w, self.attn(y, bias=scene.bias))

        y = grid.shift(modulate(self.norm(x), shift_s, scale_s))
        y = grid.unshift(self.shifted_attn(y, bias=scene.shifted_bias))
        x = x + sequential(gate_s * y, self.shifted_out)

        if self.text_attn is not None:
            x = x + self.text_attn(x.flatten(1, 2), scene.text, scene.text_bias).view_as(x)
        return torch.addcmul(x, gate_m, self.mlp(modulate(self.norm(x), shift_m, scale_m)))


class Head(nn.Module):
    """Modulated norm, then a linear layer to the patches' values: (B, P, n, dim) -> (B, P, n, p * p * out_chans)

    The modulation is that of the blocks' kind, from (B, dim). The linear layer starts at zero.
    """

    def __init__(self, dim: int, out_features: int, shared_modulation: bool, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation = SharedModulation(dim, 2, **dd) if shared_modulation else BlockModulation(dim, 2, **dd)
        self.shared_modulation = shared_modulation
        self.proj = nn.Linear(dim, out_features, **dd)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        vectors = self.modulation(cond[:, None].expand(-1, 2, -1) if self.shared_modulation else cond)
        shift, scale = vectors[:, :, None, None].unbind(1)
        return sequential(modulate(self.norm(x), shift, scale), self.proj)


class PTDiT(TokenBackbone):
    """Proxy-token diffusion transformer: noisy latents, their times and a condition -> what was learnt to predict.

    Args:
        cfg: The variant.
        in_chans: Channels of the latents.
        num_classes: Classes, 0 for none. Class ``num_classes`` stands for no class, for guidance.

    Raises:
        ValueError: If a width does not divide.
    """

    task = "generation"

    checkpoint_layouts = {
        "official": (
            ("adaln_single.emb.timestep_embedder.linear_{i}.", "time_embed.fc{i}."),
            ("adaln_single.linear.", "modulation."),
            ("caption_projection.linear_{i}.", "text_embed.fc{i}."),
            ("pos_embed.", "stem."),
            ("transformer_blocks.", "stages.0.blocks."),
            (".proxy_scale_shift_table", ".shifted_modulation.table"),
            ("scale_shift_table", "head.modulation.table"),
            (".scale_shift_table", ".modulation.table"),
            (".proxy_attn1.", ".proxy.attn."),
            (".pvisual_attn2.", ".proxy.cross_attn."),
            (".linear_1_visual.", ".proxy.out."),
            (".attn1.", ".attn."),
            (".attn2.", ".text_attn."),
            (".attn3.", ".shifted_attn."),
            (".linear_2.", ".shifted_out."),
            (".to_q.", ".q."),
            (".to_k.", ".k."),
            (".to_v.", ".v."),
            (".to_out.0.", ".proj."),
            (".ff.net.0.proj.", ".mlp.fc1."),
            (".ff.net.2.", ".mlp.fc2."),
            ("proj_out.", "head.proj."),
        ),
    }

    def __init__(self, cfg: PTDiTConfig, in_chans: int = 4, num_classes: int = 0, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.cfg = cfg
        self.in_chans = in_chans
        self.out_chans = in_chans if cfg.out_chans is None else cfg.out_chans
        self.num_classes = num_classes
        self.num_features = dim = cfg.embed_dim

        side = cfg.table_size // cfg.patch_size
        self.stem = LatentEmbed(in_chans, dim, cfg.patch_size, (cfg.table_frames, side, side), **dd)
        self.time_embed = TimeEmbed(dim, **dd)
        self.class_embed = nn.Embedding(num_classes + 1, dim, **dd) if num_classes else None
        self.text_embed = TextEmbed(cfg.text_dim, dim, **dd) if cfg.text_dim else None
        self.modulation = nn.Linear(dim, 6 * dim, **dd) if cfg.shared_modulation else None
        self.stages = nn.ModuleList([TokenStage([Block(cfg, **dd) for _ in range(cfg.depth)])])
        self.head: nn.Module = Head(dim, cfg.patch_size**2 * self.out_chans, cfg.shared_modulation, **dd)

        self.feature_info = self.block_info(cfg.depth, dim, cfg.patch_size)
        self.init_weights()

    def init_module(self, module: nn.Module) -> None:
        """Xavier, and zero for what closes a branch and for the last layer."""
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, Block):
            text = [] if module.text_attn is None else [module.text_attn.proj]
            for layer in (module.proxy.out, module.shifted_out, *text):
                nn.init.zeros_(layer.weight)
        elif isinstance(module, Head):
            nn.init.zeros_(module.proj.weight)
        elif isinstance(module, (TimeEmbed, BlockModulation)):
            module.reset_parameters()  # after their linear layers, which the first branch took

    # Passes ----------------------------------------------------------------------------------------------------------

    def _tokens(self, x: Tensor) -> tuple[Tensor, WindowGrid, tuple[int, int, int]]:
        """Embedded latents in windows (B, P, n, dim), how they were cut, and what a proxy is the mean of."""
        p, c = self.cfg.patch_size, self.in_chans
        if x.ndim not in (4, 5) or x.shape[1] != c:
            raise ValueError(f"expected latents of shape (B, {c}, H, W) or (B, {c}, F, H, W), got {list(x.shape)}")
        if x.shape[-2] % p or x.shape[-1] % p or 0 in x.shape[1:]:
            raise ValueError(f"sides of latents are multiples of {p}, got {x.shape[-2]} x {x.shape[-1]}: pad or resize")
        x = self.stem(x if x.ndim == 5 else x[:, :, None])
        size = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))  # tensors while a trace is recorded
        window = self.cfg.window(*size)
        grid = window_grid(size, window, x.device)
        return grid.partition(x), grid, self.cfg.proxy_size or window

    def _embed(
        self, x: Tensor, timesteps: Tensor | float, context: Tensor | None, mask: Tensor | None, y: Tensor | None
    ) -> tuple[Tensor, Scene, Tensor]:
        """Tokens in windows, what the blocks share, and the embedding of time and class (B, dim)."""
        x, grid, proxy_size = self._tokens(x)
        embedding = self.time_embed(timesteps, x)
        if self.class_embed is not None:
            embedding = embedding + self.class_embed(class_labels(y, x, self.num_classes))
        elif y is not None:
            raise ValueError("this model has no classes: leave y out, or build it with num_classes=")
        text = text_mask = None
        if self.text_embed is not None:
            text = self.text_embed(context, x)
            text_mask = text_bias(mask, text)
        elif context is not None:
            raise ValueError("this model reads no text: leave context out, or build a *_text variant")
        cond = embedding
        if self.modulation is not None:
            cond = self.modulation(F.silu(embedding)).unflatten(1, (6, -1))
        bias, shifted_bias = attention_bias(grid.seen, x), attention_bias(grid.shifted_seen, x)
        return x, Scene(grid, proxy_size, bias, shifted_bias, cond, text, text_mask), embedding

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | float,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """Denoise; the result is re-laid from patches.

        Args:
            x: Latents (B, in_chans, H, W) or (B, in_chans, F, H, W), sides multiples of the patch.
            timesteps: From 0 (data) to 1000 (noise), (B,) or one for all.
            context: States of the text encoder (B, L, text_dim), of models that read a text.
            context_mask: (B, L), 1 where there is text and 0 where there is padding; None if all is text.
            y: Classes (B,), ``num_classes`` for none, which is also what None means; of models that have classes.

        Returns:
            (B, out_chans, H, W) or (B, out_chans, F, H, W), in float32 as released.

        Raises:
            ValueError: If a shape or a class does not fit, or a condition is given or missing against the variant.
        """
        tokens, scene, embedding = self._embed(x, timesteps, context, context_mask, y)
        tokens = self.head(self.stages[0](tokens, scene), embedding)
        p = self.cfg.patch_size
        patches = scene.grid.unpartition(tokens).unflatten(-1, (p, p, -1))  # (B, F, h, w, p, p, C)
        out = patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4).float()
        return out if x.ndim == 5 else out[:, :, 0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        timesteps: Tensor | float | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        y: Tensor | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Tokens after blocks, as maps. The noise that belongs to the time is the caller's to add; at 0 there is none.

        Args:
            x: Latents (B, in_chans, H, W) or (B, in_chans, F, H, W).
            indices: Blocks to take: the last n if an int, all if None.
            norm: Apply the final norm (without its modulation).
            stop_early: Run no block after the last one taken.
            output_fmt: "NCHW" for (B, dim, H / p, W / p), "NHWC" for (B, H / p, W / p, dim); of videos with F as the
                third and the second dimension.
            intermediates_only: Return the list alone, otherwise (final map (B, ..., H / p, W / p, dim), list).
            timesteps: As ``forward`` takes them; None for the variant's ``feature_timestep``.
            context, context_mask, y: As ``forward`` takes them.
        """
        check_output_fmt(output_fmt, ("NCHW", "NHWC"))
        times = self.cfg.feature_timestep if timesteps is None else timesteps
        tokens, scene, _ = self._embed(x, times, context, context_mask, y)
        tokens, taken = self.run_stage(tokens, scene, indices=indices, stop_early=stop_early)

        def as_map(tokens: Tensor, normed: bool) -> Tensor:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) if normed else tokens
            map_ = scene.grid.unpartition(tokens)
            return map_ if x.ndim == 5 else map_[:, 0]

        maps = [as_map(t, norm) for t in taken]
        maps = [m.movedim(-1, 1) for m in maps] if output_fmt == "NCHW" else maps
        return maps if intermediates_only else (as_map(tokens, True), maps)

    def example_inputs(self, batch: int, height: int, width: int, tokens: int = 120) -> tuple[Tensor | None, ...]:
        """Random arguments of ``forward``, for what measures models.

        Args:
            batch: Samples.
            height, width: Of the latents.
            tokens: Length of the text, where there is one; the paper cuts texts at 120.
        """
        like = self.stem.proj.weight
        x = torch.randn(batch, self.in_chans, height, width, device=like.device, dtype=like.dtype)
        times = torch.full((batch,), 500.0, device=like.device)
        if not self.cfg.text_dim:
            return x, times
        return x, times, torch.randn(batch, tokens, self.cfg.text_dim, device=like.device, dtype=like.dtype)

    # timm's contract -------------------------------------------------------------------------------------------------

    def drop_head(self) -> None:
        self.head = nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Tables of modulation."""
        return {name for name, _ in self.named_parameters() if name.endswith("modulation.table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters from the latents to the head, for layer-wise decay."""
        return {
            "stem": r"^(?:stem|time_embed|class_embed|text_embed|modulation)\.",
            "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.\d+\.blocks\.(\d+)",
        }

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace a stored table of positions of another size by the model's own, which is computed."""
        key, table = "stem.pos_embed", self.stem.pos_embed
        if key in state_dict and state_dict[key].shape != table.shape and state_dict[key].shape[-1] == table.shape[-1]:
            state_dict[key] = table
        return state_dict

    @classmethod
    def from_official_config(cls, config: Mapping[str, Any], device=None, dtype=None) -> "PTDiT":
        """The model of a released configuration, as ``backbones.weights.released.read_ptdit_config`` reads it."""
        fields, in_chans = read_ptdit_config(config)
        return cls(PTDiTConfig(**fields), in_chans=in_chans, device=device, dtype=dtype)


def _text(**kwargs: Any) -> PTDiTConfig:
    return PTDiTConfig(out_chans=8, text_dim=4096, shared_modulation=True, **kwargs)


VARIANTS = {  # paper, table of sizes; ablations for S
    "ptdit_s_class": PTDiTConfig(embed_dim=288, depth=10, num_heads=6),
    "ptdit_b_class": PTDiTConfig(embed_dim=640, depth=12, num_heads=10),
    "ptdit_l_class": PTDiTConfig(embed_dim=864, depth=28, num_heads=12),
    "ptdit_b_text": _text(embed_dim=640, depth=12, num_heads=10),
    "ptdit_l_text": _text(embed_dim=864, depth=28, num_heads=12),
    "ptdit_xl_text": _text(embed_dim=1152, depth=28, num_heads=16),
    "ptdit_h_text": _text(embed_dim=1440, depth=30, num_heads=20),
    "test_ptdit": PTDiTConfig(embed_dim=64, depth=4, num_heads=4, table_size=16),
}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {"num_classes": 1000, "input_size": (4, 32, 32), "first_conv": "stem.proj", "classifier": None, **kwargs}


_TEXT = {"num_classes": 0, "input_size": (4, 128, 128)}

default_cfgs = generate_default_cfgs(
    {name: _cfg(**_TEXT) if cfg.text_dim else _cfg() for name, cfg in VARIANTS.items()}
    | {"test_ptdit": _cfg(input_size=(4, 16, 16))}
)

ptdit_s_class, ptdit_b_class, ptdit_l_class, ptdit_b_text, ptdit_l_text, ptdit_xl_text, ptdit_h_text, test_ptdit = (
    register_variants(PTDiT, VARIANTS)
)
