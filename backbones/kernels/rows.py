"""Weighted sums of the rows of a table."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels.double_backward import differentiable_gradients
from backbones.kernels.machine import is_observed, serves


def sum_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Gather and sum in one pass, several times faster than gathering, multiplying and adding up.

    table: (N, C), index and weight: (M, k) -> (M, C)
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # other runtimes have no such operator
        return _plain(table, index, weight)
    if torch.is_grad_enabled() and not is_observed() and serves(table, index, weight):
        return _SumRows.apply(table, index, weight)
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)


def _plain(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Gather, multiply and add up."""
    return (weight.unsqueeze(1) @ table[index]).squeeze(1)


class _SumRows(torch.autograd.Function):
    """``F.embedding_bag``, whose own gradients have no derivative."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        M, k = index.shape
        offsets = torch.arange(0, M * k, k, device=index.device)
        # by frequency, mode (0 is the sum), sparse, weights
        options = False, 0, False, weight.reshape(-1)
        out, *found = torch.ops.aten._embedding_bag(table, index.reshape(-1), offsets, *options)
        ctx.save_for_backward(table, index, weight, offsets, *found)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, index, weight, offsets, *found = ctx.saved_tensors
        needs_table, _, needs_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return differentiable_gradients(_plain, (table, index, weight), ctx.needs_input_grad, grad)
        rows, grad_table, grad_weight = index.reshape(-1), None, None
        if needs_table:
            options = table.shape[0], False, 0, False, weight.reshape(-1), -1
            grad_table = torch.ops.aten._embedding_bag_backward(grad, rows, offsets, *found, *options)
        if needs_weight:
            per_sample = torch.ops.aten._embedding_bag_per_sample_weights_backward
            grad_weight = per_sample(grad, table, rows, offsets, found[0], 0, -1).view_as(weight)
        return grad_table, None, grad_weight
