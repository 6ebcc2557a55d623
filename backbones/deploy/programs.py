"""From a model to a program of ``torch.export`` that serves every size."""

import contextlib
import importlib
import inspect
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch._export.serde import serialize
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.fx.experimental import _config as shapes_config
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils._sympy.numbers import int_oo

from backbones.layers.tables import one_table_a_size

__all__ = [
    "DIMENSIONS",
    "capture",
    "contiguous_attention",
    "first_line",
    "load_program",
    "quiet",
    "run_program",
    "save_program",
    "tensors",
]

DIMENSIONS = {0: "batch", 2: "height", 3: "width"}  # of an image, that may stay open
_LOADING = threading.Lock()  # what is patched meanwhile belongs to the process
_Deserializer: Any = getattr(serialize, "GraphModuleDeserializer", None)  # private, so it may go away


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters, quantisers and loaders warn and log of their own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def capture(
    model: nn.Module, inputs: tuple[Any, ...], dynamic: tuple[int, ...] = (), min_side: int = 32
) -> ExportedProgram:
    """The program of a model.

    Args:
        model: In evaluation mode.
        inputs: An example of its arguments; dimensions in ``dynamic`` are 2 or more.
        dynamic: Dimensions of the one input that stay open: 0 for the batch, 2 and 3 for height and width.
        min_side: Least height and width, which the program checks.

    Raises:
        ValueError: If the model fixes a dimension that should stay open.
    """
    shapes = ({d: Dim.AUTO for d in dynamic},) + (None,) * (len(inputs) - 1) if dynamic else None
    with torch.no_grad(), quiet(), one_table_a_size(model), contextlib.ExitStack() as settings:
        # No operator is to be chosen by what a size is in the example: a side of one window, a batch of one.
        settings.enter_context(shapes_config.patch(backed_size_oblivious=True))
        # Outputs of operators at open sizes are hardly met twice; making entries of them took a third of the time.
        settings.enter_context(dynamo_config.patch(fake_tensor_cache_enabled=False))
        program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    _norm_tokens(program)
    if dynamic:
        _open_sizes(program, dynamic, min_side)
    return program


def _norm_tokens(program: ExportedProgram) -> None:
    """Batch norms of channels-last maps as a product and a sum, without a transposed map before and after.

    Besides, OpenVINO 2026.4 joins such a norm to the rounding behind it and then takes another dimension for the
    channels: HaloNet was 5 % off in eight bits.
    """
    graph, aten = program.graph, torch.ops.aten

    def call(target: Any, *args: Any) -> Node:
        node = graph.call_function(target, args)
        node.meta["val"] = target(*(a.meta["val"] if isinstance(a, Node) else a for a in args))
        return node

    for node in graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        x, weight, bias, mean, var, training, _, eps, _ = node.args
        order = [n.args[1] if n.target is aten.permute.default else None for n in (x, *node.users)]
        if training or None in (weight, bias, mean, var) or order != [[0, 3, 1, 2]] + [[0, 2, 3, 1]] * len(node.users):
            continue
        with graph.inserting_before(node):
            scale = call(aten.mul.Tensor, weight, call(aten.rsqrt.default, call(aten.add.Tensor, var, eps)))
            shift = call(aten.sub.Tensor, bias, call(aten.mul.Tensor, mean, scale))
            y = call(aten.add.Tensor, call(aten.mul.Tensor, x.args[0], scale), shift)
        for user in list(node.users):
            user.replace_all_uses_with(y)
            graph.erase_node(user)
        graph.erase_node(node)
        if not x.users:
            graph.erase_node(x)
    program.graph_module.recompile()


def _open_sizes(program: ExportedProgram, dynamic: tuple[int, ...], min_side: int) -> None:
    """Check that sizes are open, and let the program accept them all.

    The exporter notes as a condition whatever it met in the example, even where the operators it recorded are right
    for all sizes; ``export`` compares the file with the model at other sizes instead.
    """
    name = program.graph_signature.user_inputs[0]
    node = next(n for n in program.graph.nodes if n.name == name)
    shape = node.meta["val"].shape
    if fixed := [d for d in dynamic if is_concrete_int(shape[d])]:
        names = " and the ".join(DIMENSIONS[d] for d in fixed)
        raise ValueError(f"the model fixes the {names} of its input: export it for fixed sizes")
    least = {str(shape[d]): 1 if d == 0 else min_side for d in dynamic}
    for symbol, bounds in program.range_constraints.items():
        upper = int_oo if str(symbol) in least else bounds.upper
        program.range_constraints[symbol] = type(bounds)(least.get(str(symbol), 0), upper)


@contextlib.contextmanager
def contiguous_attention(program: ExportedProgram) -> Iterator[None]:
    """Attention with outputs that are contiguous, whichever kernel computes them.

    An exporter traces a program several times. Whether a reshape behind attention is a view it decides by the strides
    that its first trace finds, and another may find others: where a head has as many channels as there are queries, as
    in HaloNet-H1, shapes do not tell the two apart.
    """
    graph, clones = program.graph, []
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default):
        with graph.inserting_after(node):
            clone = graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
        clone.meta = dict(node.meta)
        node.replace_all_uses_with(clone, delete_user_cb=lambda user, clone=clone: user is not clone)
        clones.append((node, clone))
    program.graph_module.recompile()
    try:
        yield
    finally:
        for node, clone in clones:
            clone.replace_all_uses_with(node)
            graph.erase_node(clone)
        program.graph_module.recompile()


def save_program(program: ExportedProgram, path: str | os.PathLike, extra_files: dict[str, Any] | None = None) -> None:
    """``torch.export.save``, which ends the process where the disk is full if it writes by itself.

    Raises:
        OSError: If the file cannot be written.
    """
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=extra_files)
    Path(path).write_bytes(content.getbuffer())


def load_program(path: str | os.PathLike, extra_files: dict[str, Any] | None = None) -> ExportedProgram:
    """``torch.export.load``, with the operators of eight bits, in less than half the time where sizes are open.

    A size is an expression of the input's, which PyTorch parses anew for each tensor and each part of the expression;
    here each is parsed once.
    """
    with contextlib.suppress(ImportError):  # private; torchao brings these operators, too
        importlib.import_module("torch.ao.quantization.fx._decomposed")
    if not hasattr(_Deserializer, "_parse_sym_expr"):
        return torch.export.load(path, extra_files=extra_files)
    parsed: dict[Any, Any] = {}

    def parse_once(self: Any, expression: Any, hint: Any = None) -> Any:
        key = self, expression, hint
        if key not in parsed:
            parsed[key] = parse(self, expression, hint)
        return parsed[key]

    with _LOADING:
        parse = _Deserializer._parse_sym_expr
        _Deserializer._parse_sym_expr = parse_once
        try:
            return torch.export.load(path, extra_files=extra_files)
        finally:
            _Deserializer._parse_sym_expr = parse


def run_program(program: ExportedProgram) -> nn.Module:
    """A program as a module that accepts every size in its ranges.

    Without the guards that the exporter noted: they are what it met in the example, see ``_open_sizes``.
    """
    guards = inspect.signature(program.module).parameters.get("check_guards")  # from torch 2.9 on
    return program.module(check_guards=False) if guards else program.module()


def first_line(error: BaseException) -> str:
    """What went wrong, from the innermost exception: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception from ")] or lines  # OpenVINO's own code
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def tensors(output: Any) -> tuple[Tensor, ...]:
    """Outputs of a model as a tuple."""
    return (output,) if isinstance(output, Tensor) else tuple(output)
