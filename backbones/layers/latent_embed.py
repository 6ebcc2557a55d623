"""Latents of an autoencoder as tokens (Wang et al., "Qihoo-T2X", arXiv:2409.04005)."""

import torch
from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc
from backbones.layers.sincos import sincos_grid


class LatentEmbed(nn.Module):
    """Patches of latents, frame by frame, plus fixed positions.

    x: (B, in_chans, F, H, W), of any type -> (B, F, H / p, W / p, dim). Cost: p^2 * in_chans * dim a token.

    Checkpoints store the table of positions of one size, and that one is used at that size; others are computed.

    Args:
        in_chans: Channels of the latents.
        dim: Channels of the tokens, a multiple of 16.
        patch_size: Side p of a patch, in latents.
        grid: Frames, rows and columns of the stored table.

    Raises:
        ValueError: If ``dim`` is no multiple of 16.
    """

    pos_embed: Tensor

    def __init__(
        self, in_chans: int, dim: int, patch_size: int, grid: tuple[int, int, int], device=None, dtype=None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size, device=device, dtype=dtype)
        table = torch.empty(1, grid[0], grid[1] * grid[2], dim, device=device, dtype=dtype)
        self.register_buffer("pos_embed", table)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the stored table."""
        dim = self.pos_embed.shape[-1]
        self.pos_embed.copy_(sincos_grid(*self.grid, dim, self.pos_embed.device).view_as(self.pos_embed))

    def positions(self, frames: int, height: int, width: int) -> Tensor:
        """(frames, height, width, dim)"""
        dim = self.pos_embed.shape[-1]
        if (frames, height, width) == self.grid:
            return self.pos_embed.view(frames, height, width, dim)
        return sincos_grid(frames, height, width, dim, self.pos_embed.device)

    def forward(self, x: Tensor) -> Tensor:
        """The one place where the latents' memory is re-laid."""
        B, _, frames, _, _ = x.shape
        x = to_nhwc(x.to(self.pos_embed.dtype).transpose(1, 2).flatten(0, 1)).contiguous()
        x = sequential(x, to_nchw, self.proj, to_nhwc).unflatten(0, (B, frames))
        frames, height, width = (int(side) for side in x.shape[1:4])
        return (x + self.positions(frames, height, width)).to(x.dtype)
