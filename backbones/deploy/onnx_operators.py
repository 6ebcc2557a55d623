"""ONNX operators for those of PyTorch that its exporter does not know, or knows for fixed sizes alone."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram

__all__ = ["Translated", "translation_table", "whole_translations"]

aten = torch.ops.aten
DROPOUTS = aten.dropout.default, aten.feature_dropout.default
EPSILON = torch.finfo(torch.float32).eps  # of norms that name none


class Translated(ExportedProgram):
    """A copy of a program whose operators are translated to ONNX as they are, without being decomposed first.

    Decomposing traces a program twice: of open sizes that takes three quarters of an export. Operators that ONNX has no
    translation for make the export fail.

    Args:
        program: In evaluation mode.

    Raises:
        ValueError: If an operator changes a tensor that others read, which only decomposing sorts out.
    """

    def __init__(self, program: ExportedProgram) -> None:
        graph = copy.deepcopy(program.graph)
        _simplify(graph)
        super().__init__(
            root=fx.GraphModule(program.graph_module, graph),
            graph=graph,
            graph_signature=program.graph_signature,
            state_dict=program.state_dict,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=program.constants,
        )

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Leaves nothing that another export of the program would stumble over: symbols for numbers of boxes."""
        values = (node.meta.get("val") for node in self.graph.nodes)
        env = next((value.fake_mode.shape_env for value in values if isinstance(value, FakeTensor)), None)
        with env.ignore_fresh_unbacked_symbols() if env else contextlib.nullcontext():
            yield

    def run_decompositions(self, *args: Any, **kwargs: Any) -> "Translated":
        """Nothing: the exporter calls this before it translates."""
        return self


def _simplify(graph: fx.Graph) -> None:
    """Write operators that change what they read as those that return it, and leave out those that do nothing."""
    for node in list(graph.nodes):
        source: Any = next(iter(node.args), None)
        if node.target is aten.promote_types.default:  # a check
            graph.erase_node(node)
        elif node.target is aten.__and__.Tensor:
            node.target = aten.bitwise_and.Tensor
        elif node.target is aten.detach_.default or (node.target in DROPOUTS and node.args[2] is False):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif (
            isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket is aten.to
        ):  # of a device, of another tensor
            node.target, node.args, node.kwargs = aten.to.dtype, (source, node.meta["val"].dtype), {}
        elif node.target is aten.movedim.int:
            order = list(range(source.meta["val"].ndim))
            order.insert(node.args[2] % len(order), order.pop(node.args[1]))
            node.target, node.args = aten.permute.default, (source, order)
        elif node.op == "call_function" and getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            name = node.target._schema.name.removeprefix("aten::")
            plain = getattr(getattr(aten, name.removesuffix("_"), None), node.target._overloadname, None)
            if not name.endswith("_") or plain is None or not _is_new(source) or set(source.users) != {node}:
                raise ValueError(f"{node.target} changes a tensor that others may read")
            node.target = plain


def _is_new(node: fx.Node) -> bool:
    """Whether a tensor is in memory of its own, as far as its operator tells."""
    if node.target is aten.to.dtype:
        return node.meta["val"].dtype != node.args[0].meta["val"].dtype  # type: ignore[union-attr]
    return isinstance(node.target, torch._ops.OpOverload) and not node.target.is_view


def whole_translations() -> dict[Any, Callable[..., Any]]:
    """More of them for ``Translated``, of operators that are decomposed otherwise.

    They raise ValueError where they do not know an operator's arguments: then it is decomposed after all.
    """
    from onnxscript import opset18

    op: Any = opset18

    def batch_norm(
        x: Any,
        weight: Any,
        bias: Any,
        mean: Any,
        var: Any,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Any:
        if training or weight is None or bias is None:
            raise ValueError("a batch norm that trains or has no weights is decomposed")
        return op.BatchNormalization(x, weight, bias, mean, var, epsilon=eps)

    def rms_norm(x: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
        axes = list(range(-len(normalized_shape), 0))
        mean = op.ReduceMean(op.Mul(x, x), axes, keepdims=True)
        y = op.Div(x, op.Sqrt(op.Add(mean, op.CastLike(EPSILON if eps is None else eps, x))))
        return y if weight is None else op.Mul(y, weight)

    def rsub(x: Any, other: Any, alpha: float = 1.0) -> Any:
        return op.Sub(op.CastLike(other, x), op.Mul(x, op.CastLike(alpha, x)))

    def cast(x: Any, dtype: Any, non_blocking: bool = False, copy: bool = False, memory_format: Any = None) -> Any:
        return op.Cast(x, to=dtype)

    def meshgrid(sides: Sequence[Any], indexing: str) -> Any:
        if indexing != "ij":
            raise ValueError(f"meshgrid of indexing {indexing!r} is decomposed")
        count = len(sides)
        shapes = [[-1 if i == j else 1 for j in range(count)] for i in range(count)]
        ones = op.Concat(*(op.Shape(side) for side in sides), axis=0)
        return tuple(op.Expand(op.Reshape(side, shape), ones) for side, shape in zip(sides, shapes, strict=True))

    return {
        aten.batch_norm.default: batch_norm,
        aten.meshgrid.indexing: meshgrid,
        aten.rms_norm.default: rms_norm,
        aten.rsub.Scalar: rsub,
        aten.to.dtype: cast,
    }


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

    return {
        aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        aten.remainder.Scalar: remainder,
        aten.sort.stable: sort_stable,
        aten.topk.default: topk,
    }
