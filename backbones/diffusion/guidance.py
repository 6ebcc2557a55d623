"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598): conditions dropped in training, exaggerated after."""

import torch
from torch import Tensor, nn

__all__ = ["Guidance", "drop_labels", "velocity"]


def drop_labels(labels: Tensor, null: int, rate: float) -> Tensor:
    """Replace each of ``labels`` (B,) by ``null`` with probability ``rate``."""
    return labels.masked_fill(torch.rand(labels.shape, device=labels.device) < rate, null)


def velocity(model: nn.Module, x: Tensor, times: Tensor, **condition: Tensor) -> Tensor:
    """What ``model`` predicts, in x's shape. Further channels, which released weights have, belong to no loss."""
    return model(x, times, **condition)[:, : x.shape[1]]


class Guidance:
    """Velocity with and without condition, the difference taken ``scale`` times: (x, times) -> velocity of x's shape.

    Both are computed in one pass, the conditional half first, as the release does; at scale 1 the second half is left
    out.

    Args:
        model: PT-DiT.
        condition: arguments of the model for B samples (``y``; ``context`` and ``context_mask``).
        empty: the same for samples without a condition (null class, empty prompt).
        scale: 1 follows the condition as learnt, more than that exaggerates it.
    """

    def __init__(self, model: nn.Module, condition: dict[str, Tensor], empty: dict[str, Tensor], scale: float) -> None:
        self.model = model
        self.scale = scale
        self.condition = condition
        if scale != 1:
            self.condition = {name: torch.cat([value, empty[name]]) for name, value in condition.items()}

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        if self.scale == 1:
            return velocity(self.model, x, times, **self.condition)
        both = velocity(self.model, torch.cat([x, x]), torch.cat([times, times]), **self.condition)
        conditional, empty = both.chunk(2)
        return empty + self.scale * (conditional - empty)
