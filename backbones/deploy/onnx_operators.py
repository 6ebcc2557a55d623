"""ONNX operators for those of PyTorch that its exporter does not know, or knows for fixed sizes alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["translation_table"]


def translation_table() -> dict[Any, Callable[..., Any]]:
    """Functions by operator, as ``torch.onnx.export(custom_translation_table=...)`` takes them."""
    from onnxscript import opset18

    op: Any = opset18  # its types do not know that lists and numbers become constants

    def sort_stable(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        length = op.Shape(x, start=dim, end=dim + 1)
        return op.TopK(x, length, axis=dim, largest=descending, sorted=True)  # equal values in the order they come

    def remainder(x: Any, other: Any) -> Any:
        return op.Mod(x, op.CastLike(other, x))

    def topk(x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
        k = [k] if isinstance(k, int) else op.Reshape(k, [1])
        return op.TopK(x, k, axis=dim, largest=largest, sorted=sorted)

    def bins(x: Any, axis: int, count: int) -> Any:
        """Weights (count, side) that average a side of ``x`` in overlapping bins."""
        side = op.Shape(x, start=axis, end=axis + 1)
        numbers = op.Unsqueeze(op.Constant(value_ints=list(range(count))), [1])
        first = op.Div(op.Mul(numbers, side), [count])
        end = op.Div(op.Add(op.Mul(op.Add(numbers, [1]), side), [count - 1]), [count])
        places = op.Range(0, op.Squeeze(side), 1)
        inside = op.And(op.GreaterOrEqual(places, first), op.Less(places, end))
        return op.Div(op.CastLike(inside, x), op.CastLike(op.Sub(end, first), x))

    def adaptive_avg_pool2d(x: Any, output_size: Sequence[int]) -> Any:
        height, width = output_size
        if height == width == 1:
            return op.ReduceMean(x, [-2, -1], keepdims=True)
        return op.MatMul(op.MatMul(bins(x, 2, height), x), op.Transpose(bins(x, 3, width), perm=[1, 0]))

    aten = torch.ops.aten
    return {
        aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        aten.remainder.Scalar: remainder,
        aten.sort.stable: sort_stable,
        aten.topk.default: topk,
    }
