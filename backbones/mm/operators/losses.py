"""Focal losses. MMDetection and MMSegmentation call these on a GPU, and a version of their own on a CPU."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ._types import widen

__all__ = [
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
]


def _of_class(weight: Tensor, target: Tensor) -> Tensor:
    """Class weights of targets; 1 for background (the last class plus one, or -1), and where there are none."""
    return torch.cat([weight, weight.new_ones(1)])[target] if weight.numel() else target.new_ones(len(target))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Loss of each logit, into ``output``: input ``(N, classes)``, target ``(N,)``, weight ``(classes,)`` or empty."""
    x, weight = widen(input, weight)
    is_class = target[:, None] == torch.arange(x.shape[1], device=x.device)
    x = torch.where(is_class, x, -x)  # logit of what is true
    factor = torch.where(is_class, alpha, 1 - alpha) * _of_class(weight, target)[:, None]
    # The compiled one takes log(max(p, smallest float32)): 87 where this gives 20.
    output.copy_(-factor * torch.sigmoid(-x).pow(gamma) * logsigmoid(x))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The slope of each logit's loss, into ``grad_input``."""
    x, weight = widen(input, weight)
    is_class = target[:, None] == torch.arange(x.shape[1], device=x.device)
    sign = torch.where(is_class, 1.0, -1.0).to(x.dtype)
    x = x * sign
    factor = torch.where(is_class, alpha, 1 - alpha) * _of_class(weight, target)[:, None]
    q = torch.sigmoid(-x)
    slope = q.pow(gamma) * (gamma * torch.sigmoid(x) * logsigmoid(x) - q)
    grad_input.copy_(sign * factor * slope)


def _true_class(softmax: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Probability of the true class, and alpha times its weight; 0 where the target is negative, that is ignored."""
    p = softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return p.clamp(min=torch.finfo(torch.float32).tiny), alpha * (target >= 0) * _of_class(weight, target)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Loss of each row of probabilities (not logits), ``(N, classes)``, into ``output``, ``(N,)``."""
    softmax, weight = widen(input, weight)
    if len(target):
        p, factor = _true_class(softmax, target, weight, alpha)
        output.copy_(-factor * (1 - p).pow(gamma) * p.log())


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The slope for the logits, into ``grad_input``; ``buff`` receives that of the true class, before the softmax."""
    softmax, weight = widen(input, weight)
    if not len(target):
        return
    p, factor = _true_class(softmax, target, weight, alpha)
    slope = -(1 - p).pow(gamma)
    if gamma:  # 0 times (1 - p) ** -1 is no number at p = 1
        slope = slope + gamma * (1 - p).pow(gamma - 1) * p * p.log()
    slope = factor * slope
    buff.copy_(slope)
    is_class = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    grad_input.copy_(slope[:, None] * (is_class.to(softmax.dtype) - softmax))
