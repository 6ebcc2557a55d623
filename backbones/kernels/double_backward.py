"""Gradients that have gradients, of operations whose backward pass writes to buffers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def differentiable_gradients(
    plain: Callable[..., Tensor], inputs: Sequence[Any], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of ``plain(*inputs)``, of operators that have derivatives: for the needed inputs, else None."""
    # Views of their own: where an input was computed from another one, the engine goes that way by itself.
    inputs = [x.view_as(x) if need else x for x, need in zip(inputs, needed)]
    wanted = [x for x, need in zip(inputs, needed) if need]
    found = iter(torch.autograd.grad(plain(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if need else None for need in needed)
