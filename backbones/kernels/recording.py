"""What a model computes for inputs of one size, as a graph of operators with every choice made.

A forward pass is recorded below the modules, while the planner chooses kernels as it always does. For one size that is
a straight line: what depends on parameters and sizes alone (folded batch norms, tables, masks) is a constant, and every
view is a look at the memory of the tensor that it views. ``packing.py`` rewrites the graph, and it runs without
modules.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from backbones.kernels.machine import recording

aten = torch.ops.aten
as_strided = torch.as_strided  # called through torch.ops it takes three times as long, and half of the nodes are views


class Layout(NamedTuple):
    """How a tensor lies in the memory of its root, the node that allocated it."""

    root: fx.Node
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, root: fx.Node) -> "Layout":
        return cls(root, tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset(), tensor.dtype)


class Program:
    """A graph under construction, its constants, and how its tensors lie (``node.meta["layout"]``)."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.constants: dict[fx.Node, Tensor] = {}
        self.sources: dict[fx.Node, frozenset[str]] = {}  # names of the model's tensors that a constant is made of
        self.mutated: dict[fx.Node, fx.Node] = {}  # roots that operators write to, and the last that does

    def constant(self, value: Tensor, sources: frozenset[str] = frozenset()) -> fx.Node:
        """The node of a constant; one for all that are equal."""
        for node, other in self.constants.items():
            if other.is_mkldnn:
                continue
            same = other.dtype == value.dtype and other.shape == value.shape and other.stride() == value.stride()
            if other is value or (same and torch.equal(other, value)):
                return node
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.get_attr(f"constant{len(self.constants)}")
        node.meta["layout"] = Layout.of(value, node)
        self.constants[node] = value
        self.sources[node] = sources
        return node

    def packed(self, value: Tensor) -> fx.Node:
        """The node of a constant in a layout of oneDNN's own."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.get_attr(f"constant{len(self.constants)}")
        self.constants[node] = value
        return node

    def call(self, before: fx.Node, op: Callable, args: tuple, like: Layout) -> fx.Node:
        """A new node that allocates a tensor of the shape and strides of ``like``."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(op, args)
        node.meta["layout"] = like._replace(root=node, offset=0)
        return node

    def view(self, before: fx.Node, root: fx.Node, shape: Sequence[int], stride: Sequence[int], offset: int) -> fx.Node:
        """A look at the memory of ``root``."""
        layout = root.meta["layout"]
        new = Layout(root, tuple(shape), tuple(stride), offset, layout.dtype)
        if new == layout:
            return root
        if root in self.constants:
            value = torch.as_strided(self.constants[root], new.shape, new.stride, offset)
            return self.constant(value, self.sources.get(root, frozenset()))
        with self.graph.inserting_before(before):
            node = self.graph.call_function(as_strided, (root, tuple(shape), tuple(stride), offset))
        node.meta["layout"] = new
        return node

    def module(self) -> fx.GraphModule:
        """A module of the graph's inputs."""
        self.graph.eliminate_dead_code()
        used = {node.target: self.constants[node] for node in self.graph.nodes if node.op == "get_attr"}
        return fx.GraphModule(used, self.graph)


_TENSOR = object()
_OUTPUTS = (Tensor, torch.Size, int, float, str, type(None))  # what a model returns: numbers are of the size alone
_READS = (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.equal.default)
# Their shapes are a matter of values, and they have no tag that says so.
_SHAPES = ("where", "repeat_interleave.Tensor", "repeat_interleave.self_Tensor", "argwhere", "nonzero_numpy", "nms")
# What looks at memory itself, which no recorder of operators sees.
_DIRECT: Any = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data.__set__)  # type: ignore[attr-defined]


class _Recorder(TorchDispatchMode):
    def __init__(self, program: Program, inputs: Sequence[Tensor], names: Mapping[int, str]) -> None:
        super().__init__()
        self.program = program
        self.names = names
        self.nodes = WeakTensorKeyDictionary()
        self.known: dict[fx.Node, Tensor] = {}  # what depends on no input
        for i, tensor in enumerate(inputs):
            node = program.graph.placeholder(f"input{i}")
            node.meta["layout"] = Layout.of(tensor, node)
            self.nodes[tensor] = node

    def node(self, tensor: Tensor) -> fx.Node:
        if tensor not in self.nodes:
            sources = frozenset({self.names[tensor.data_ptr()]} if tensor.data_ptr() in self.names else ())
            self.nodes[tensor] = node = self.program.constant(tensor, sources)
            self.known[node] = tensor
        return self.nodes[tensor]

    def depends_on_inputs(self, tensor: Tensor) -> bool:
        return tensor in self.nodes and self.nodes[tensor] not in self.known

    def _depends_on_values(self, func: Any, args: tuple) -> bool:
        """Whether what an operator returns to Python, or the shape of what it computes, is a matter of values."""
        if func is aten.index.Tensor:  # a mask chooses as many as it is true for, numbers as many as they are
            masks = [t for t in args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
            return any(self.node(mask) not in self.known for mask in masks)
        name = func._schema.name.rpartition("::")[2] + f".{func._schema.overload_name}".rstrip(".")
        tags = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
        return func in _READS or name in _SHAPES or any(tag in func.tags for tag in tags)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and not _drops_nothing(func, args, kwargs):
            raise ValueError(f"{func} draws random numbers, which a recorded program would draw once")
        graph = self.program.graph
        sources = [self.node(t) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        known = all(node in self.known for node in sources)
        if not known and self._depends_on_values(func, args):
            raise ValueError(f"{func} makes the program depend on the values of the input: it cannot be recorded")
        if func in _READS:
            return func(*args, **kwargs)
        made_of = frozenset().union(*(self.program.sources.get(node, frozenset()) for node in sources))
        node_args, node_kwargs = tree_map(lambda t: self.node(t) if isinstance(t, Tensor) else t, (args, kwargs))
        storages = {
            t.untyped_storage()._cdata: self.node(t) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)
        }
        written = _written(func, args, kwargs)
        out = func(*args, **kwargs)
        node = graph.call_function(func, node_args, node_kwargs)
        roots = {self.node(t).meta["layout"].root for t in written}
        self.program.mutated |= dict.fromkeys(roots, node)
        if roots and not known:  # nor are, from here on, the tensors that were written to and all that view them
            self.known = {n: value for n, value in self.known.items() if n.meta["layout"].root not in roots}

        def note(tensor: Tensor, node: fx.Node) -> None:
            source = storages.get(tensor.untyped_storage()._cdata)
            node.meta["layout"] = Layout.of(tensor, source.meta["layout"].root if source else node)
            self.nodes[tensor] = node
            if known:
                self.known[node] = tensor
                self.program.sources[node] = made_of

        if isinstance(out, Tensor):
            note(out, node)
        elif isinstance(out, tuple | list):
            for i, tensor in enumerate(out):
                if isinstance(tensor, Tensor):
                    note(tensor, graph.call_function(_getitem, (node, i)))
        return out


class _Watcher(TorchFunctionMode):
    """Refuses what the recorder cannot see."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _DIRECT and self.recorder.depends_on_inputs(args[0]):
            raise ValueError(
                f"{func.__name__} looks at the values of a tensor that depends on the input: it cannot be recorded"
            )
        return func(*args, **(kwargs or {}))


def _getitem(tensors: Sequence[Tensor], i: int) -> Tensor:
    return tensors[i]


def _drops_nothing(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether an operator has a dropout that is off."""
    values = {a.name: value for a, value in zip(func._schema.arguments, args)} | kwargs
    return (
        values.get("dropout_p", 0.0) == 0.0
        if "scaled_dot_product" in func._schema.name
        else not values.get("train", True)
    )


def writes(node: fx.Node) -> bool:
    """Whether the operator of a node writes to memory."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _written(func: Any, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator writes to."""
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    positions = {a.name: i for i, a in enumerate(func._schema.arguments)}
    values = [
        kwargs[n] if n in kwargs else args[positions[n]] for n in names if n in kwargs or positions[n] < len(args)
    ]
    return [t for t in tree_flatten(values)[0] if isinstance(t, Tensor)]


def record(
    fn: Callable, inputs: Sequence[Tensor], names: Mapping[int, str] = MappingProxyType({})
) -> tuple[Program, Any, Callable[[Sequence[Tensor]], Any]]:
    """Run ``fn`` once and write down its operators.

    Args:
        fn: Tensors to tensors, and numbers that are a matter of sizes, in tuples, lists and dictionaries.
        inputs: What it is given.
        names: Of the model's tensors, by address.

    Returns: The program, what ``fn`` returned, and a function that makes the like of it of the program's outputs.

    Raises:
        ValueError: If the operators depend on the values of the inputs, draw random numbers, or write to a tensor of
            the model, or if ``fn`` returns something else.
    """
    program = Program()
    inputs = [x.view_as(x) for x in inputs]  # objects of their own, where one tensor is given twice
    with torch.inference_mode(), recording(), _Recorder(program, inputs, names) as recorder, _Watcher(recorder):
        result = fn(*inputs)
    outputs, spec = tree_flatten(result)
    for value in outputs:
        if not isinstance(value, _OUTPUTS):
            raise ValueError(
                f"the model returns a {type(value).__name__}, not tensors in tuples, lists or dictionaries"
            )
    program.graph.output(tuple(recorder.node(t) for t in outputs if isinstance(t, Tensor)))
    _fold_constants(program, recorder.known)
    _copy_constants(program)
    _look_through_views(program)

    others = [_TENSOR if isinstance(value, Tensor) else value for value in outputs]

    def unflatten(tensors: Sequence[Tensor]) -> Any:
        found = iter(tensors)
        return tree_unflatten([next(found) if value is _TENSOR else value for value in others], spec)

    return program, result, unflatten


def _fold_constants(program: Program, known: dict[fx.Node, Tensor]) -> None:
    if any(node.op in ("get_attr", "placeholder") for node in program.mutated):
        raise ValueError("the model writes to its own tensors or to its input: a recorded program would not repeat it")
    for node, value in known.items():
        used = any(user not in known for user in node.users)
        if node.op == "call_function" and used and node.meta["layout"].root not in program.mutated:
            node.replace_all_uses_with(program.constant(value, program.sources[node]))


def _copy_constants(program: Program) -> None:
    """Give the caller what is constant as a tensor of his own, which he may write to."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    for node in set(output.all_input_nodes) & set(program.constants):
        layout = node.meta["layout"]
        last = sum((n - 1) * step for n, step in zip(layout.shape, layout.stride, strict=True))
        size = 0 if 0 in layout.shape else last + 1
        memory = program.view(output, node, (size,), (1,), layout.offset)
        copy = program.call(output, aten.clone.default, (memory,), memory.meta["layout"])
        output.replace_input_with(node, program.view(output, copy, layout.shape, layout.stride, 0))


def _look_through_views(program: Program) -> None:
    for node in list(program.graph.nodes):
        layout = node.meta.get("layout")
        if layout is None or layout.root is node or writes(node):
            continue
        if layout.root.meta["layout"].dtype == layout.dtype:
            node.replace_all_uses_with(program.view(node, *layout[:4]))
        else:  # of another type than the memory: as good as a root
            node.meta["layout"] = layout._replace(root=node)
            if layout.root in program.mutated:
                program.mutated[node] = program.mutated[layout.root]
    program.graph.eliminate_dead_code()
