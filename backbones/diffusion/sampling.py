"""From noise to pictures, with ``diffusers``' solvers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.diffusion.flow import TIMES
from backbones.diffusion.guidance import Guidance

__all__ = ["SOLVERS", "draw_noise", "generate", "sample"]


def _euler(steps: int, shift: float) -> Any:
    """First order, at the release's times: equal steps, shifted."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    return scheduler


def _dpm(steps: int, shift: float) -> Any:
    """Second order with one evaluation a step: DPM-Solver++ (2M), which needs about half the steps."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=2
    )
    scheduler.set_timesteps(steps)
    return scheduler


SOLVERS: dict[str, Callable[[int, float], Any]] = {"dpm": _dpm, "euler": _euler}


def draw_noise(shape: Sequence[int], seed: int, numbers: Sequence[int]) -> Tensor:
    """Noise of the samples ``numbers``, (len(numbers), *shape): each depends on ``seed`` and its own number only."""
    noise = []
    for number in numbers:
        # a sum of the two would give seed 1 the pictures of seed 0, shifted by one
        state = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
        noise.append(torch.randn(*shape, generator=torch.Generator().manual_seed(state)))
    return torch.stack(noise)


@torch.inference_mode()
def sample(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    steps: int = 30,
    shift: float = 1.0,
    solver: str = "euler",
) -> Tensor:
    """Follow the velocity from ``noise`` to data.

    Args:
        velocity: (x, times) -> velocity from noise to data, of x's shape, such as :class:`Guidance`.
        noise: (B, ...).
        steps: evaluations of ``velocity``.
        shift: of the times; that of the training, or :func:`resolution_shift` for released weights.
        solver: of ``SOLVERS``: "euler", or "dpm" for the second order.

    Raises:
        ValueError: no step, or an unknown solver.
    """
    if steps < 1 or solver not in SOLVERS:
        raise ValueError(f"steps={steps}, solver={solver!r}: at least one step of {', '.join(sorted(SOLVERS))}")
    scheduler = SOLVERS[solver](steps, shift)
    x = noise
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        times = torch.full((len(x),), float(sigma) * TIMES, device=x.device)  # its own times may be rounded
        # diffusers' velocity goes from data to noise
        x = scheduler.step(-velocity(x, times).float(), time, x).prev_sample
    return x


def generate(
    model: nn.Module,
    shape: Sequence[int],
    condition: dict[str, Tensor],
    empty: dict[str, Tensor],
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """Guided samples, (N, *shape): pixels or latents. A sample depends on its number and the seed, not on its batch.

    Args:
        model: PT-DiT.
        shape: of a sample: (C, H, W), or (C, F, H, W) for videos.
        condition: arguments of the model for the N samples (``y``; ``context`` and ``context_mask``).
        empty: the same for one sample without a condition.
        guidance: 1 for none.
        batch_size: samples at a time.
        progress: show a bar.
        **options: of :func:`sample`.
    """
    from tqdm import tqdm

    device = next(model.parameters()).device
    count = len(next(iter(condition.values())))
    parts = []
    with tqdm(total=count, unit="sample", disable=None if progress else True) as bar:
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))
            chosen = {name: value[start : numbers.stop].to(device) for name, value in condition.items()}
            nothing = {name: value.to(device).expand_as(chosen[name]) for name, value in empty.items()}
            noise = draw_noise(shape, seed, numbers).to(device)
            parts.append(sample(Guidance(model, chosen, nothing, guidance), noise, **options))
            bar.update(len(numbers))
    return torch.cat(parts)
