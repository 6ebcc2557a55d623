"""Windows of a (F, H, W) grid of tokens, plain and shifted by half a window: where tokens go, and which see which.

The shift and its mask are those of Liu et al., "Swin Transformer", arXiv:2103.14030, section 3.2, in three dimensions.
"""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers.tables import kept_by_size

Triple = tuple[int, int, int]


def _windows(x: Tensor, window: Triple) -> Tensor:
    """(B, F, H, W, ...), sides multiples of the window's -> (B, P, n, ...), both in (f, h, w) order (copies)."""
    (wf, wh, ww), (B, F_, H, W) = window, x.shape[:4]
    x = x.reshape(B, F_ // wf, wf, H // wh, wh, W // ww, ww, *x.shape[4:])
    return x.movedim((3, 5), (2, 3)).flatten(4, 6).flatten(1, 3)


@dataclass(frozen=True, eq=False)
class WindowGrid:
    """How a grid is cut into P windows of n tokens; ``window_grid`` makes it.

    A grid that is no multiple of the window is padded with zeros at the end of each axis. Padding is a region of its
    own: no token of the grid sees it, nor does it count in a window's mean.

    Attributes:
        grid: Frames, rows and columns of the tokens.
        window: Frames, rows and columns of a window.
        padded: Frames, rows and columns of the grid with its padding.
        shifted: (P * n,) place among the windows of each token of the shifted windows; ``unshifted`` is its inverse.
        seen: (P, n, n) which tokens of a window see which, None if all do.
        shifted_seen: The same of the shifted windows: tokens that the shift brought together from two ends do not.
        valid: (P, n) which tokens are no padding, None if all.
    """

    grid: Triple
    window: Triple
    padded: Triple
    shifted: Tensor
    unshifted: Tensor
    seen: Tensor | None
    shifted_seen: Tensor | None
    valid: Tensor | None

    def partition(self, x: Tensor) -> Tensor:
        """Pad and cut a map (copies): (B, F, H, W, C) -> (B, P, n, C)."""
        if self.padded != self.grid:
            f, h, w = (padded - side for padded, side in zip(self.padded, self.grid, strict=True))
            x = F.pad(x, (0, 0, 0, w, 0, h, 0, f))
        return _windows(x, self.window)

    def unpartition(self, x: Tensor) -> Tensor:
        """Inverse of ``partition`` (copies): (B, P, n, C) -> (B, F, H, W, C), a view without the padding."""
        (wf, wh, ww), (Fp, Hp, Wp), (F_, H, W) = self.window, self.padded, self.grid
        B, C = x.shape[0], x.shape[-1]
        x = x.reshape(B, Fp // wf, Hp // wh, Wp // ww, wf, wh, ww, C)
        x = x.movedim((2, 3), (3, 5)).reshape(B, Fp, Hp, Wp, C)
        return x[:, :F_, :H, :W]

    def shift(self, x: Tensor) -> Tensor:
        """From windows to windows half a window further (copies): (B, P, n, C) -> (B, P, n, C)."""
        return x.flatten(1, 2).index_select(1, self.shifted).view_as(x)

    def unshift(self, x: Tensor) -> Tensor:
        """Inverse of ``shift`` (copies)."""
        return x.flatten(1, 2).index_select(1, self.unshifted).view_as(x)

    def window_means(self, x: Tensor, proxy: Triple) -> tuple[Tensor, Tensor | None]:
        """Means of the tokens of a window, over all its frames.

        Args:
            x: (B, P, n, C)
            proxy: Frames (which do not matter), rows and columns that a mean takes of its window. Where that is less
                than the window, each mean takes every r-th row and column, r = side of the window / of the proxy.

        Returns:
            (B, M, C), M = P * r^2, and which of them (M,) are of tokens that are not all padding, None if all.
        """
        (wf, wh, ww), (_, ph, pw) = self.window, proxy
        split = (wf, ph, wh // ph, pw, ww // pw)  # row = i * r + j: i is averaged, j stays
        if self.valid is None:
            return x.unflatten(2, split).mean(dim=(2, 3, 5)).flatten(1, 3), None
        counts = self.valid.unflatten(1, split).sum(dim=(1, 2, 4)).flatten()  # (M,)
        x = torch.where(self.valid[..., None], x, 0).unflatten(2, split).sum(dim=(2, 3, 5)).flatten(1, 3)
        return x / counts.clamp(min=1)[:, None], counts > 0


def attention_bias(seen: Tensor | None, x: Tensor) -> Tensor | None:
    """What is added to the scores so that nothing unseen is attended to (copies: a mask a sample, once a pass).

    seen: (P, n, n), x: (B, ...) -> (B * P, 1, n, n) in the type of ``x``; or (M,) -> (1, 1, 1, M). None gives None.
    """
    if seen is None:
        return None
    bias = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, float("-inf"))
    if seen.ndim == 1:
        return bias[None, None, None]
    return bias.expand(x.shape[0], *seen.shape).flatten(0, 1)[:, None]


def _same(regions: Tensor) -> Tensor:
    """(P, n) numbers of regions -> (P, n, n) whether two tokens are of the same one."""
    return regions[:, :, None] == regions[:, None]


@kept_by_size
def window_grid(grid: Triple, window: Triple, device: torch.device) -> WindowGrid:
    """The windows of a grid: tables of it are made (copies) and kept for the sizes and devices last asked for.

    Args:
        grid: Frames, rows and columns of the tokens.
        window: Frames, rows and columns of a window.
        device: Where the tables are needed.
    """
    F_, H, W = grid
    wf, wh, ww = window
    padded = (-(-F_ // wf) * wf, -(-H // wh) * wh, -(-W // ww) * ww)
    shifts = tuple(size // 2 for size in window)

    def rolled(x: Tensor) -> Tensor:
        return x.roll(tuple(-shift for shift in shifts), (0, 1, 2))

    def windows(x: Tensor) -> Tensor:
        return _windows(x[None], window)[0]

    valid = torch.zeros(padded, dtype=torch.bool, device=device)
    valid[:F_, :H, :W] = True
    regions = torch.zeros(padded, dtype=torch.long, device=device)  # of the rolled grid
    for axis, (side, size, shift) in enumerate(zip(padded, window, shifts, strict=True)):
        if shift:
            at = torch.arange(side, device=device)
            part = (at >= side - size).long() + (at >= side - shift)
            regions = regions * 3 + part.view([-1 if i == axis else 1 for i in range(3)])
    regions = regions.masked_fill(~rolled(valid), -1)

    row_major = torch.arange(prod(padded), device=device).view(padded)
    place = windows(row_major).flatten().argsort()  # among the windows, of each token of the grid
    shifted = place[windows(rolled(row_major)).flatten()]
    whole = padded == grid
    return WindowGrid(
        grid=grid,
        window=window,
        padded=padded,
        shifted=shifted,
        unshifted=shifted.argsort(),
        seen=None if whole else _same(windows(valid).long()),
        shifted_seen=None if whole and not any(shifts) else _same(windows(regions)),
        valid=None if whole else windows(valid),
    )
