"""Rectified flow: straight paths from data to noise, and the velocity along them (Liu et al., arXiv:2209.03003).

Times are drawn from a logit-normal distribution and shifted towards noise as pictures grow (Esser et al.,
arXiv:2403.03206), which PT-DiT's released sampling does too (``rflow``).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["TIMES", "add_noise", "draw_times", "flow_loss", "resolution_shift", "shift_times"]

TIMES = 1000.0  # what models call pure noise


def resolution_shift(height: int, width: int, frames: int = 1) -> float:
    """Shift r of the times for pictures of ``height`` x ``width`` pixels: 1 at 512 x 512, growing with the side.

    Args:
        frames: of a video; as in the release, 17 of them count five times as much as a picture, fewer like one.
    """
    return math.sqrt(height * width / 512**2 * max(frames // 17 * 5, 1))


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Move times towards noise by ``shift`` > 1, towards data below 1: u -> r u / (1 + (r - 1) u) with u = t / 1000.

    Raises:
        ValueError: a shift that is not above 0.
    """
    if shift <= 0:
        raise ValueError(f"shift is {shift}: it must be above 0, and 1 leaves times as they are")
    u = times / TIMES
    return TIMES * shift * u / (1 + (shift - 1) * u)


def draw_times(
    count: int, shift: float = 1.0, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Times to train at, (count,): logit-normal with location 0 and scale 1, shifted."""
    return shift_times(TIMES * torch.randn(count, generator=generator, device=device).sigmoid(), shift)


def add_noise(data: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """The point of each path at its time: (1 - t / 1000) data + (t / 1000) noise. data, noise: (B, ...), times: (B,)"""
    share = (times / TIMES).view(-1, *[1] * (data.ndim - 1))
    return torch.lerp(data, noise, share)


def flow_loss(velocity: Callable[[Tensor, Tensor], Tensor], data: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity, from noise to data, of each sample: (B,).

    Args:
        velocity: (x, times) -> velocity of x's shape, data - noise where it is right.
        data, noise: (B, ...).
        times: (B,).
    """
    predicted = velocity(add_noise(data, noise, times), times)
    return (predicted.float() - (data - noise)).square().flatten(1).mean(1)
