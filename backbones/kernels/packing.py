"""Rewrites a recorded program for oneDNN: products with constant weights become convolutions with packed weights.

A linear layer is a 1x1 convolution of a channels-last image, so all layers are one kind of node, into which what stands
around it is folded: factors and norms into its weights, an activation, a residual or a gate into its kernel. A pattern
may look through views wherever two tensors lie in memory alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from backbones.kernels.convolution import convolution_pointwise
from backbones.kernels.int8 import Quantizer, Ranges
from backbones.kernels.machine import HERE, current_machine
from backbones.kernels.recording import Layout, Program, as_strided, writes

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
NHWC = torch.channels_last
_reorder_weight = getattr(mkldnn, "_reorder_convolution_weight", None)
_linear_pointwise = getattr(mkldnn, "_linear_pointwise", None)
_reorder_linear_weight = getattr(mkldnn, "_reorder_linear_weight", None)
# Products of a layer: up to so many, the 10 us that a convolution takes longer to begin than a linear layer matter.
SMALL_LAYER = 2**25


@dataclass(frozen=True)
class Layer:
    """A convolution with constant weights, not yet emitted.

    Its node is a ``_unpacked`` of its input, (B, C, H, W) and channels-last, and of the other operand of ``binary``.
    Its weights are float32, whatever it computes in.
    """

    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    act: tuple[str, str] = ("none", "")
    binary: str = ""
    key: tuple[str, ...] = ()  # names of what its weights are made of

    @property
    def plain(self) -> bool:
        """Whether it computes an affine map alone."""
        return self.act[0] == "none" and not self.binary

    @property
    def pointwise(self) -> bool:
        """Whether it is a linear layer of every pixel."""
        side = self.weight.shape[2:]
        return side == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1

    def scaled(self, scale: Tensor | float, shift: Tensor | None = None) -> "Layer":
        """This layer, its channels times ``scale`` plus ``shift``."""
        scale = torch.as_tensor(scale, dtype=self.weight.dtype).expand(len(self.weight))
        bias = None if self.bias is None else self.bias * scale
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return replace(self, weight=self.weight * scale.view(-1, 1, 1, 1), bias=bias)

    def after(self, first: "Layer") -> "Layer":
        """The linear layer of pixels that two are."""
        weight, inner = (layer.weight[:, :, 0, 0].double() for layer in (self, first))
        bias = None if first.bias is None else (weight @ first.bias.double()).float()
        if self.bias is not None:
            bias = self.bias if bias is None else bias + self.bias
        return replace(self, weight=(weight @ inner).float()[:, :, None, None], bias=bias, key=first.key + self.key)


def pack(program: Program, ranges: Ranges | None = None) -> None:
    """Fold what stands around the layers of a program into them, and pack their weights once.

    Args:
        program: As recorded.
        ranges: Of the inputs of layers that are to compute in eight bits.
    """
    if convolution_pointwise is None or _reorder_weight is None or not current_machine().onednn:
        return
    with torch.inference_mode():
        _Packer(program, ranges).run()


class _Packer:
    def __init__(self, program: Program, ranges: Ranges | None) -> None:
        self.program = program
        self.quantizer = Quantizer(program, ranges or {})
        self.layers: dict[fx.Node, Layer] = {}
        self.packed: dict[Any, tuple[fx.Node, Tensor]] = {}  # and what was packed, so that its address stays its own
        self.dtypes = (
            [torch.float32, torch.bfloat16] if current_machine().bfloat16 and HERE.bfloat16 else [torch.float32]
        )

    def run(self) -> None:
        self.ahead = set(self.program.mutated.values())  # operators that are still to write somewhere
        for node in list(self.program.graph.nodes):
            self.ahead.discard(node)
            if not node._erased and node.op == "call_function" and "layout" in node.meta:
                self.visit(node)
        for node in list(self.program.graph.nodes):
            if node in self.layers and node.users:
                self.emit(node, self.layers[node])
        self.program.graph.eliminate_dead_code()

    def packs(self, dtype: torch.dtype, weight_dtype: torch.dtype) -> bool:
        """Whether oneDNN has packed layers of this type here."""
        return dtype == weight_dtype and dtype in self.dtypes

    # Which nodes are layers, and what is folded into them ---------------------------------------------------------

    def visit(self, node: fx.Node) -> None:
        """Make a layer of a node, or fold it into the layer that computes its operand."""
        rule = _RULES.get(node.target)
        if rule is None or node.meta["layout"].root in self.program.mutated:
            return
        args = list(node.args)
        defaults = node.target._schema.arguments
        args += [node.kwargs.get(a.name, a.default_value) for a in defaults[len(args) :]]
        if any(self.will_change(a) for a in args if isinstance(a, fx.Node)):
            return
        rule(self, node, *args)

    def will_change(self, node: fx.Node) -> bool:
        """Whether a later operator writes to a tensor, so that it must be read now."""
        return self.program.mutated.get(node.meta["layout"].root) in self.ahead

    def value(self, node: Any) -> Tensor | None:
        return self.program.constants.get(node)

    def key(self, weight: fx.Node) -> tuple[str, ...]:
        """Names of what a constant is made of, the same at all sizes."""
        return tuple(sorted(self.program.sources.get(weight, ())))

    def layer_of(self, node: Any, like: Layout) -> tuple[fx.Node, Layer] | None:
        """The layer whose whole result is ``node``, which nobody else uses and which lies in memory as ``like``."""
        if not isinstance(node, fx.Node) or "layout" not in node.meta:
            return None
        layout = node.meta["layout"]
        root = layout.root
        if root not in self.layers or len(root.users) != 1 or (node is not root and len(node.users) != 1):
            return None
        whole = layout.offset == 0 and math.prod(layout.shape) == math.prod(root.meta["layout"].shape)
        return (root, self.layers[root]) if whole and _same_place(layout, like) else None

    def put(self, node: fx.Node, layer: Layer, image: Layout, x: fx.Node, other: fx.Node | None = None) -> None:
        """Replace a node by a layer of ``x`` whose result (B, C, H, W) is ``image``, seen as the node was."""
        layout = node.meta["layout"]
        root = self.program.call(node, _unpacked, (x, other), image)
        self.layers[root] = layer
        view = self.program.view(node, root, layout.shape, layout.stride, 0)
        node.replace_all_uses_with(view)
        for user in list(view.users):
            if user.target is as_strided:  # a view of what was a root
                user.replace_all_uses_with(self.program.view(user, root, *user.meta["layout"][1:4]))
                self.erase(user)
        self.erase(node)

    def erase(self, node: fx.Node) -> None:
        """Remove a node that nobody uses, and what only it used; but none that writes to memory, which others read."""
        if node.users or node.op != "call_function" or node._erased or writes(node):
            return
        inputs = node.all_input_nodes
        self.program.graph.erase_node(node)
        for source in inputs:
            self.erase(source)

    def convolution(
        self,
        node: fx.Node,
        x: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None,
        padding: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        act: tuple[str, str] = ("none", ""),
    ) -> None:
        w, b = self.value(weight), self.value(bias)
        layout, image = x.meta["layout"], node.meta["layout"]
        if w is None or (bias is not None and b is None) or w.ndim != 4 or isinstance(padding, str):
            return
        if not _is_channels_last(image) or not self.packs(layout.dtype, w.dtype) or 0 in layout.shape + image.shape:
            return
        if not _is_channels_last(layout):  # images as a model of another package is given them
            like = layout._replace(stride=torch.empty(layout.shape, device="meta").to(memory_format=NHWC).stride())
            x = self.program.call(node, aten.contiguous.default, (x,), like)
            x.kwargs = {"memory_format": NHWC}
        pad, step, spread = ((v[0], v[-1]) for v in (padding, stride, dilation))
        layer = Layer(w.float(), None if b is None else b.float(), pad, step, spread, groups, act, key=self.key(weight))
        self.put(node, layer, image, x)

    def linear(self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> None:
        w, b = self.value(weight), self.value(bias)
        if bias is None or b is not None:
            self.rows_layer(node, x, w, b, self.key(weight))

    def product(self, node: fx.Node, x: fx.Node, matrix: fx.Node) -> None:
        value = self.value(matrix)
        if value is not None and value.ndim == 2:
            self.rows_layer(node, x, value.t(), None, self.key(matrix))

    def rows_layer(self, node: fx.Node, x: fx.Node, w: Tensor | None, b: Tensor | None, key: tuple[str, ...]) -> None:
        layout, out = x.meta["layout"], node.meta["layout"]
        if w is None or w.ndim != 2 or not self.packs(layout.dtype, w.dtype) or 0 in layout.shape + w.shape:
            return
        rows, width = math.prod(layout.shape[:-1]), layout.shape[-1]
        layer = Layer(w[:, :, None, None].float(), None if b is None else b.float(), key=key)
        result = Layout(node, (1, len(w), rows, 1), (rows * len(w), 1, len(w), len(w)), 0, out.dtype)
        found = self.layer_of(x, layout)
        if found and found[1].plain and found[1].pointwise and found[0].meta["layout"].shape == (1, width, rows, 1):
            both = layer.after(found[1])
            if both.weight.numel() < layer.weight.numel() + found[1].weight.numel():
                return self.put(node, both, result, found[0].args[0])
        if not _is_contiguous(layout):
            dense = torch.empty(layout.shape, device="meta").stride()
            x = self.program.call(node, aten.contiguous.default, (x,), layout._replace(stride=dense))
            layout = x.meta["layout"]
        image = self.program.view(
            node, layout.root, (1, width, rows, 1), (rows * width, 1, width, width), layout.offset
        )
        self.put(node, layer, result, image)

    def activation(self, node: fx.Node, x: fx.Node, act: tuple[str, str]) -> None:
        found = self.layer_of(x, node.meta["layout"])
        if found and found[1].plain:
            self.refine(node, found[0], replace(found[1], act=act))

    def multiply(self, node: fx.Node, a: Any, b: Any) -> None:
        out = node.meta["layout"]
        for x, factor in ((a, b), (b, a)):
            found = self.layer_of(x, out)
            if found and found[1].plain:
                scale = self.per_channel(factor, out, len(found[1].weight))
                if scale is not None:
                    return self.refine(node, found[0], found[1].scaled(scale))
        self.binary(node, "mul", a, b)

    def add(self, node: fx.Node, a: Any, b: Any, alpha: float = 1) -> None:
        if alpha == 1:
            self.binary(node, "add", a, b)

    def addcmul(self, node: fx.Node, x: fx.Node, a: Any, b: Any, value: float = 1) -> None:
        out = node.meta["layout"]
        for layered, factor in ((a, b), (b, a)):
            found = self.layer_of(layered, out)
            if value == 1 and found and found[1].plain and _same_place(x.meta["layout"], out):
                scale = self.per_channel(factor, out, len(found[1].weight))
                if scale is not None:
                    return self.put_binary(node, "add", found[0], found[1].scaled(scale), x)

    def binary(self, node: fx.Node, kind: str, a: Any, b: Any) -> None:
        out = node.meta["layout"]
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or a is b:
            return
        for x, other in ((b, a), (a, b)):
            found = self.layer_of(x, out)
            if found and found[1].plain and _same_place(other.meta["layout"], out):
                return self.put_binary(node, kind, *found, other)

    def put_binary(self, node: fx.Node, kind: str, root: fx.Node, layer: Layer, other: fx.Node) -> None:
        image, place = root.meta["layout"], other.meta["layout"]
        other = self.program.view(node, place.root, image.shape, image.stride, place.offset)
        self.put(node, replace(layer, binary=kind), image, root.args[0], other)

    def refine(self, node: fx.Node, root: fx.Node, layer: Layer) -> None:
        """Replace a node that is computed from the layer ``root`` alone by ``layer``."""
        self.put(node, layer, root.meta["layout"], root.args[0])

    def norm(self, node: fx.Node, x: fx.Node, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> None:
        """A batch norm in evaluation: into the layer before it, or into all 1x1 convolutions after it."""
        w, b, m, v = (t if t is None else t.float() for t in map(self.value, (weight, bias, mean, var)))
        if m is None or v is None or node.meta["layout"].stride[1] != 1:  # channels that do not lie side by side
            return
        scale = (v + eps).rsqrt() * (1 if w is None else w)
        shift = -m * scale + (0 if b is None else b)
        found = self.layer_of(x, node.meta["layout"])
        if found and found[1].plain and found[0].meta["layout"].shape[1] == len(scale):
            self.refine(node, found[0], found[1].scaled(scale, shift))
        else:
            node.meta["affine"] = scale, shift

    def per_channel(self, factor: Any, out: Layout, channels: int) -> Tensor | float | None:
        """A factor that is the same at all pixels, as a vector, of a map whose last dimension in memory is channels."""
        if isinstance(factor, int | float):
            return float(factor)
        value = self.value(factor)
        if value is None or value.numel() > channels or channels == 0:
            return None
        filled = value.new_empty_strided(out.shape, out.stride)
        filled.copy_(value.expand(out.shape))
        rows = torch.as_strided(filled, (filled.numel() // channels, channels), (channels, 1))
        return rows[0].clone() if bool((rows == rows[0]).all()) else None

    # Emitting ------------------------------------------------------------------------------------------------------

    def emit(self, node: fx.Node, layer: Layer) -> None:
        x, layer = self.with_norm_before(node, layer)
        eight_bits = self.quantizer.takes(layer, x)
        if layer.pointwise and (eight_bits or self.is_better_linear(layer, node.meta["layout"])):
            new, image = self.emit_linear(node, x, layer, eight_bits)
        else:
            new = image = self.emit_convolution(node, x, layer, eight_bits)
        if layer.key:
            new.meta["key"] = layer.key
        for user in node.users:
            if user.target is as_strided:
                user.meta["layout"] = user.meta["layout"]._replace(root=new)
        node.replace_all_uses_with(image)

    def is_better_linear(self, layer: Layer, image: Layout) -> bool:
        """Whether oneDNN's linear layer is ahead of its 1x1 convolution: where little is to be done, and without
        AVX-512 where the convolution takes three times as long for some numbers of rows."""
        if _linear_pointwise is None or _reorder_linear_weight is None:
            return False
        B, _, H, W = image.shape
        slow = not current_machine().avx512 and layer.weight.shape[1] > 2048
        return slow or B * H * W * layer.weight.numel() <= SMALL_LAYER

    def emit_convolution(self, node: fx.Node, x: fx.Node, layer: Layer, eight_bits: bool) -> fx.Node:
        if eight_bits:
            return self.quantizer.convolution(node, x, layer, node.args[1], node.meta["layout"])
        geometry = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
        shape, dtype = x.meta["layout"].shape, x.meta["layout"].dtype
        weight = layer.weight.to(dtype)
        key = (weight.data_ptr(), weight.shape, weight.stride(), shape, layer.padding, layer.stride, layer.dilation)
        if key not in self.packed:
            assert _reorder_weight is not None
            ready = weight.contiguous(memory_format=torch.channels_last)
            self.packed[key] = self.program.packed(_reorder_weight(ready, *geometry, list(shape))), weight
        packed, bias = self.packed[key][0], self.bias(layer, dtype)
        if layer.binary:
            op = mkldnn._convolution_pointwise.binary
            args: tuple = (x, node.args[1], packed, bias, *geometry, layer.binary, 1.0, None, [], None)
        else:
            op = mkldnn._convolution_pointwise.default
            args = (x, packed, bias, *geometry, layer.act[0], [], layer.act[1])
        return self.program.call(node, op, args, node.meta["layout"])

    def emit_linear(self, node: fx.Node, x: fx.Node, layer: Layer, eight_bits: bool) -> tuple[fx.Node, fx.Node]:
        """The node of the rows, and their view as the image (B, C, H, W) that they are the pixels of."""
        dtype, image = x.meta["layout"].dtype, node.meta["layout"]
        weight = layer.weight[:, :, 0, 0].to(dtype)
        key = (weight.data_ptr(), weight.shape, weight.stride())
        x = self.rows(node, x)
        other: Any = self.rows(node, node.args[1]) if layer.binary else None  # type: ignore[arg-type]
        like = image._replace(shape=(x.meta["layout"].shape[0], len(weight)), stride=(len(weight), 1))
        if eight_bits:
            new = self.quantizer.linear(node, x, layer, other, like)
            return new, self.program.view(node, new, image.shape, image.stride, 0)
        if key not in self.packed:
            assert _reorder_linear_weight is not None
            rows = x.meta["layout"].shape[0]
            self.packed[key] = self.program.packed(_reorder_linear_weight(weight.contiguous(), rows)), weight
        packed, bias = self.packed[key][0], self.bias(layer, dtype)
        if layer.binary:
            args: tuple = (x, other, packed, bias, layer.binary)
            new = self.program.call(node, mkldnn._linear_pointwise.binary, args, like)
        else:
            args = (x, packed, bias, layer.act[0], [], layer.act[1])
            new = self.program.call(node, mkldnn._linear_pointwise.default, args, like)
        return new, self.program.view(node, new, image.shape, image.stride, 0)

    def rows(self, node: fx.Node, image: fx.Node) -> fx.Node:
        """The pixels of a channels-last image (B, C, H, W) as rows (B * H * W, C)."""
        layout = image.meta["layout"]
        B, C, H, W = layout.shape
        return self.program.view(node, layout.root, (B * H * W, C), (C, 1), layout.offset)

    def bias(self, layer: Layer, dtype: torch.dtype) -> fx.Node | None:
        return None if layer.bias is None else self.program.constant(layer.bias.to(dtype).contiguous())

    def with_norm_before(self, node: fx.Node, layer: Layer) -> tuple[fx.Node, Layer]:
        """Input and layer, with a batch norm of the input in the weights if that needs no padding."""
        input_node: Any = node.args[0]
        layout = input_node.meta["layout"]
        norm, root = layout.root, layout.root.meta["layout"]
        whole = math.prod(layout.shape) == math.prod(root.shape) and layout.offset == 0
        if "affine" not in norm.meta or not whole or layer.groups != 1 or layer.padding != (0, 0):
            return input_node, layer
        scale, shift = norm.meta["affine"]
        place = norm.args[0].meta["layout"]
        if layer.weight.shape[1] != len(scale) or not _same_place(place, root):
            return input_node, layer
        view = self.program.view(node, place.root, layout.shape, layout.stride, place.offset)
        offset = (layer.weight * shift.view(1, -1, 1, 1)).sum((1, 2, 3))
        bias = offset if layer.bias is None else layer.bias + offset
        key = layer.key and (*layer.key, "before its norm")  # another input, so another range
        return view, replace(layer, weight=layer.weight * scale.view(1, -1, 1, 1), bias=bias, key=key)


def _unpacked(x: Tensor, other: Tensor | None) -> Tensor:
    """Stands for a layer until it is emitted."""
    raise AssertionError


# Layouts --------------------------------------------------------------------------------------------------------------


def _strides(layout: Layout) -> list[int]:
    """Strides of the dimensions that have any."""
    return [t for s, t in zip(layout.shape, layout.stride, strict=True) if s != 1]


def _same_place(a: Layout, b: Layout) -> bool:
    """Whether equal positions in memory hold equal positions of two dense tensors."""
    dense = 1
    for size, stride in sorted(zip(b.shape, b.stride, strict=True), key=lambda s: s[1]):
        if size != 1 and stride != dense:
            return False
        dense *= size
    return a.shape == b.shape and _strides(a) == _strides(b) and a.dtype == b.dtype


def _is_contiguous(layout: Layout) -> bool:
    return torch.empty_strided(layout.shape, layout.stride, device="meta").is_contiguous()


def _is_channels_last(layout: Layout) -> bool:
    if len(layout.shape) != 4:
        return False
    B, C, H, W = layout.shape
    like = layout._replace(stride=(C * H * W, 1, W * C, C))
    return _strides(like) == _strides(layout)


# Rules: the packer, the node, then the operator's arguments -----------------------------------------------------------

_RULES: dict[Any, Callable] = {
    aten.convolution.default: lambda p, n, x, w, b, stride, padding, dilation, transposed, _, groups: (
        None if transposed else p.convolution(n, x, w, b, padding, stride, dilation, groups)
    ),
    aten.conv2d.default: lambda p, n, x, w, b, stride, padding, dilation, groups: p.convolution(
        n, x, w, b, padding, stride, dilation, groups
    ),
    aten.mkldnn_convolution.default: lambda p, n, *args: p.convolution(n, *args),
    mkldnn._convolution_pointwise.default: lambda p, n, x, w, b, padding, stride, dilation, groups, act, _, algorithm: (
        p.convolution(n, x, w, b, padding, stride, dilation, groups, (act, algorithm or ""))
    ),
    aten.linear.default: lambda p, n, x, w, b: p.linear(n, x, w, b),
    aten.gelu.default: lambda p, n, x, approximate: p.activation(n, x, ("gelu", approximate)),
    aten.relu.default: lambda p, n, x: p.activation(n, x, ("relu", "")),
    aten.silu.default: lambda p, n, x: p.activation(n, x, ("swish", "")),
    aten.mul.Tensor: lambda p, n, a, b: p.multiply(n, a, b),
    aten.add.Tensor: lambda p, n, a, b, alpha: p.add(n, a, b, alpha),
    aten.addcmul.default: lambda p, n, x, a, b, value: p.addcmul(n, x, a, b, value),
    aten.batch_norm.default: lambda p, n, x, w, b, m, v, training, momentum, eps, cudnn: (
        None if training else p.norm(n, x, w, b, m, v, eps)
    ),
}
for _op in (aten.matmul.default, aten.mm.default):
    _RULES[_op] = lambda p, n, x, w: p.product(n, x, w)
