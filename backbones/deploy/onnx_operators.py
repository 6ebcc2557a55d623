"""ONNX operators for those of PyTorch that its exporter does not know, or knows for fixed sizes alone."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["TRANSLATIONS"]


def TRANSLATIONS() -> dict[Any, Callable[..., Any]]:
    """Functions by operator, as ``torch.onnx.export(custom_translation_table=...)`` takes them."""
    from onnxscript import opset18 as op

    def sort_stable(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        length = op.Shape(x, start=dim, end=dim + 1)
        return op.TopK(x, length, axis=dim, largest=descending, sorted=True)  # equal values in the order they come

    def remainder(x: Any, other: Any) -> Any:
        return op.Mod(x, op.CastLike(other, x))

    aten = torch.ops.aten
    return {aten.sort.stable: sort_stable, aten.remainder.Scalar: remainder}
