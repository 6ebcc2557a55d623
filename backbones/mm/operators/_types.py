"""Types that operators compute in, and gradients of functions written in torch."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

__all__ = ["as_computed", "gradients", "widen", "without_autocast"]


def as_computed(value: float, dtype: torch.dtype) -> float:
    """A threshold as numbers of this type meet it: 0.3 is the float32 nearest to it for overlaps in float32.

    As a double it lies below, and boxes that overlap by just 0.3 would be above it.
    """
    return torch.tensor(value, dtype=dtype).item()


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half types as float32, in which every operator computes; others as they are."""
    half = (torch.float16, torch.bfloat16)
    return tuple(x.float() if x.dtype in half else x for x in tensors)


def without_autocast(function: Callable) -> Callable:
    """For operators that call matrix products, which autocast would take down to half again."""

    @wraps(function)
    def wrapped(first: Tensor, *args, **kwargs):
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped


def gradients(function: Callable[..., Tensor], grad_output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of ``function(*inputs)`` for the inputs, computed anew from them."""
    with torch.enable_grad():
        inputs = tuple(x.detach().requires_grad_() for x in inputs)
        return torch.autograd.grad(function(*inputs), inputs, grad_output)
