"""Gradients of gradients of operations whose backward pass writes to buffers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backbones.kernels.double_backward import differentiable_gradients


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return differentiable_gradients(torch.mul, ctx.saved_tensors, ctx.needs_input_grad, grad)


def test_an_input_that_is_computed_from_another() -> None:
    x = torch.linspace(-2, 2, 9, requires_grad=True)

    def derivatives(product: Callable[..., Tensor]) -> list[Tensor]:
        found = [product(x, x.sin())]
        for _ in range(3):
            found += torch.autograd.grad(found[-1].sum(), x, create_graph=True)
        return found

    for found, expected in zip(derivatives(_Product.apply), derivatives(torch.mul), strict=True):
        torch.testing.assert_close(found, expected)
