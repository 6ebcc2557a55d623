"""Layers of a recorded program in eight bits, by the integer kernels of oneDNN that ``torch.compile`` emits, too.

A layer's input becomes unsigned bytes over a range that was observed before, its weights signed ones with a scale for
each output channel, and what it computes is float again, or bytes where the next layer is all that reads it. Weights
take half of their range on every CPU: those without VNNI add two products in 16 bits, which the whole one overflows.
"""

import fnmatch
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from backbones.kernels.recording import Layout, Program, as_strided

if TYPE_CHECKING:
    from backbones.kernels.packing import Layer

aten, onednn = torch.ops.aten, torch.ops.onednn
_NAMES = ("qlinear_prepack", "qlinear_pointwise", "qconv_prepack", "qconv_pointwise")
# Least and largest input of a layer, by the names of the tensors that its weights are made of: the same at all sizes.
Ranges = dict[tuple[str, ...], tuple[float, float]]

INT8_TOLERANCE = 0.15  # of the relative error of what a model computes
LARGEST_WEIGHT = 63
FLOAT = 1.0, 0, torch.float32  # scale, zero point and type of what a layer computes
# Products that an entry of the input meets. Below, making bytes of the input takes as long as eight bits save.
LEAST_PRODUCTS = 96


def has_int8_kernels() -> bool:
    """Whether this PyTorch has them. They are private, so they may go away."""
    return all(hasattr(onednn, name) for name in _NAMES)


def observe(program: Program, inputs: tuple[Tensor, ...], ranges: Ranges) -> None:
    """Run a packed program and widen ``ranges`` to what its layers are given."""

    class Observer(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if "key" in n.meta:
                x = self.env[n.args[0]]
                low, high = (bound.item() for bound in x.aminmax())
                known = ranges.get(n.meta["key"], (0.0, 0.0))  # zero is exact: it pads
                ranges[n.meta["key"]] = min(known[0], low), max(known[1], high)
            return super().run_node(n)

    Observer(program.module()).run(*inputs)


def is_within(module: str, patterns: Sequence[str]) -> bool:
    """Whether a module ("stages.0.blocks.1.attn.proj") is one that a pattern ("attn.*") names, or inside of it."""
    return any(fnmatch.fnmatchcase(f".{module}.", f"*.{pattern}.*") for pattern in patterns)


class Quantizer:
    """Emits the layers of a program whose range is known.

    Args:
        program: Under construction.
        ranges: As ``observe`` leaves them.
    """

    def __init__(self, program: Program, ranges: Ranges) -> None:
        self.program = program
        self.ranges = ranges
        self.packed: dict[Any, tuple[fx.Node, Tensor]] = {}  # and what was packed, so that its address stays its own
        self.bytes: dict[Any, fx.Node] = {}

    def takes(self, layer: "Layer", x: fx.Node) -> bool:
        """Whether a layer is quantised: one of few outputs or of groups is not worth it."""
        products = math.prod(layer.weight.shape[2:]) * len(layer.weight)
        is_float = x.meta["layout"].dtype == torch.float32
        return layer.key in self.ranges and is_float and layer.groups == 1 and products >= LEAST_PRODUCTS

    def linear(self, node: fx.Node, x: fx.Node, layer: "Layer", other: fx.Node | None, like: Layout) -> fx.Node:
        """A linear layer of rows, and the rows ``other`` that it is added to or multiplied by."""
        x, scale, zero = self.quantized(node, x, layer)
        shape = list(x.meta["layout"].shape)
        weights = self.weights(layer.weight[:, :, 0, 0], lambda w, _: onednn.qlinear_prepack(w, shape), shape)
        given = x, scale, zero, *weights
        if layer.binary == "add":
            args: tuple = *given, other, self.bias(layer), *FLOAT, 1.0, 0, "add", 1.0, "none", [], ""
            return self.program.call(node, onednn.qlinear_pointwise.binary, args, like)
        args = *given, self.bias(layer), *FLOAT, layer.act[0], [], layer.act[1]
        new = self.program.call(node, onednn.qlinear_pointwise.default, args, like)
        return self.after(node, new, layer, other)

    def convolution(self, node: fx.Node, x: fx.Node, layer: "Layer", other: fx.Node | None, like: Layout) -> fx.Node:
        """A convolution of an image (B, C, H, W), and the image ``other``, likewise."""
        x, scale, zero = self.quantized(node, x, layer)
        shape = list(x.meta["layout"].shape)
        geometry = list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups
        weights = self.weights(
            layer.weight,
            lambda w, scales: onednn.qconv_prepack(w, scales, scale, zero, *geometry, shape),
            (shape, scale, zero, geometry),
        )
        act = layer.act if layer.act[0] != "gelu" else ("none", "")  # which these have not
        args: tuple = x, scale, zero, *weights, self.bias(layer), *geometry, *FLOAT, act[0], [], act[1]
        new = self.program.call(node, onednn.qconv_pointwise.default, args, like)
        if layer.act[0] == "gelu":
            new = self.program.call(node, aten.gelu.default, (new,), like)
            new.kwargs = {"approximate": layer.act[1]}
        return self.after(node, new, layer, other)

    def after(self, node: fx.Node, new: fx.Node, layer: "Layer", other: fx.Node | None) -> fx.Node:
        """A residual or gate for which the kernel has no place, as an operator of its own."""
        if not layer.binary:
            return new
        op = aten.add.Tensor if layer.binary == "add" else aten.mul.Tensor
        return self.program.call(node, op, (new, other), new.meta["layout"])

    def quantized(self, node: fx.Node, x: fx.Node, layer: "Layer") -> tuple[fx.Node, float, int]:
        """Bytes of a layer's input, their scale and zero point."""
        low, high = self.ranges[layer.key]
        scale = (high - low) / 255 or 1.0
        zero = round(-low / scale)
        layout = x.meta["layout"]
        root = layout.root
        if root.target in WRITES_BYTES and set(_readers(root)) == {node} and not _is_of(node.args[1], root):
            i = root.args.index(torch.float32)
            root.args = *root.args[: i - 2], scale, zero, torch.uint8, *root.args[i + 1 :]
            root.meta["layout"] = root.meta["layout"]._replace(dtype=torch.uint8)
            return self.program.view(node, root, layout.shape, layout.stride, layout.offset), scale, zero
        key = layout, scale, zero
        if key not in self.bytes or root in self.program.mutated:
            like = layout._replace(dtype=torch.uint8)
            self.bytes[key] = self.program.call(node, _to_bytes, (x, 1 / scale, zero), like)
        return self.bytes[key], scale, zero

    def weights(
        self, weight: Tensor, pack: Callable[[Tensor, Tensor], Tensor], packing: object
    ) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Packed weights of eight bits, their scales and zero points.

        Args:
            weight: (outputs, ...).
            pack: (rounded weights, scales) -> packed weights.
            packing: What ``pack`` depends on besides.
        """
        largest = weight.flatten(1).abs().amax(1)
        scales = (largest / LARGEST_WEIGHT).where(largest > 0, 1.0)
        key = weight.data_ptr(), weight.shape, weight.stride(), str(packing)
        if key not in self.packed:
            rounded = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
            self.packed[key] = self.program.packed(pack(rounded, scales)), weight
        zeros = weight.new_zeros(len(weight), dtype=torch.int64)
        return self.packed[key][0], self.program.constant(scales), self.program.constant(zeros)

    def bias(self, layer: "Layer") -> fx.Node | None:
        return None if layer.bias is None else self.program.constant(layer.bias.contiguous())


WRITES_BYTES = [onednn.qlinear_pointwise.default, onednn.qconv_pointwise.default] if has_int8_kernels() else []


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What reads a tensor or a view of it."""
    for user in node.users:
        if user.target is as_strided:
            yield from _readers(user)
        else:
            yield user


def _is_of(node: Any, root: fx.Node) -> bool:
    return isinstance(node, fx.Node) and node.meta["layout"].root is root


def _to_bytes(x: Tensor, factor: float, zero: int) -> Tensor:
    """Unsigned bytes ``x * factor + zero``, by way of signed ones: to these PyTorch converts four times as fast."""
    y = torch.add(x.new_tensor(zero - 128.0), x, alpha=factor)
    return y.round_().clamp_(-128, 127).to(torch.int8).view(torch.uint8).bitwise_xor_(128)
