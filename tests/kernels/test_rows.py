"""Weighted sums of rows: equal to a product of gathered rows, with gradients of gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels import sum_rows
from backbones.kernels.rows import _SumRows


def rows(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 4, generator=generator, dtype=dtype).requires_grad_()
    index = torch.randint(7, (10, 3), generator=generator)  # some rows twice, maybe some never
    return table, index, torch.randn(10, 3, generator=generator, dtype=dtype).requires_grad_()


def test_it_is_torch_s_operator_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        table, index, weight = rows(dtype)
        found, expected = (
            sum_rows(table, index, weight),
            F.embedding_bag(index, table, mode="sum", per_sample_weights=weight),
        )
        assert type(found.grad_fn).__name__ == "_SumRowsBackward" and torch.equal(found, expected)
        grad = torch.randn_like(found)
        for a, b in zip(*(torch.autograd.grad(y, (table, weight), grad) for y in (found, expected)), strict=True):
            assert torch.equal(a, b)
        with torch.no_grad():
            assert torch.equal(sum_rows(table, index, weight), expected)


def test_gradients_of_any_order() -> None:
    table, index, weight = rows(torch.float64)

    def call(table: Tensor, weight: Tensor) -> Tensor:
        return _SumRows.apply(table, index, weight)

    assert torch.autograd.gradcheck(call, (table, weight))
    assert torch.autograd.gradgradcheck(call, (table, weight))
    assert torch.autograd.gradgradcheck(lambda w: call(table.detach(), w), (weight,))
    assert torch.autograd.gradgradcheck(lambda t: call(t, weight.detach()), (table,))
