"""Layers that run one after the other: the one place that decides what is fused, recomputed or computed in chunks.

A block says which steps follow each other. ``sequential`` finds out once a call whether they are plain, that is of
PyTorch's own type with its own ``forward``, plain parameters and no hook, and whether nobody looks at operators. Plain
neighbours are then run by the table below, everything else is called as it stands.

| steps | without gradients | with gradients |
| --- | --- | --- |
| linear or convolution, activation | one kernel | |
| linear or convolution, BatchNorm2d in evaluation | norm in the weights | |
| matmul, linear | one product where pixels outnumber channels | the same |
| linear, glu | two products without a copy, the second times the gate in one kernel | two products without a copy |
| RMSNorm, linear to fewer channels | norm on the result, its weight in the layer's | |
| shortcut of a depthwise convolution | one convolution | the same |
| linear ... linear on a batch | a few images at a time | |
| activation, (RMSNorm,) linear | | activated map is recomputed in the backward pass, never stored |
| linear ... activation ... linear of few channels | | hidden maps are recomputed, a few images at a time |
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from backbones.kernels.convolution import ACTS, conv2d, linear, product_gradient
from backbones.kernels.double_backward import differentiable_gradients
from backbones.kernels.layout import to_nchw, to_nhwc
from backbones.kernels.machine import compute_dtype, computes_in, is_observed, serves
from backbones.kernels.memory import by_images, even_chunk

Step = Callable[[Any], Any]


class shortcut:
    """The step ``x + layers(x)``: ``layers`` are steps, and keep the shape of their input."""

    __slots__ = ("layers",)

    def __init__(self, *layers: Step) -> None:
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        kinds = [] if calls_are_observed() else [_kind(layer) for layer in self.layers[-2:]]
        if kinds == ["scale", "identity"]:
            return torch.addcmul(x, sequential(x, *self.layers[:-2]), self.layers[-2].gamma)  # type: ignore[attr-defined]
        return x + sequential(x, *self.layers)


@dataclass(frozen=True, slots=True)
class matmul:
    """The step that multiplies groups of channels by a matrix each. x: (B, N, G * d), matrix: (B, G, d, d)"""

    matrix: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        x = x.unflatten(2, self.matrix.shape[1:3]).transpose(1, 2)  # (B, G, N, d)
        return (x @ self.matrix).transpose(1, 2).reshape(B, N, C)


@dataclass(frozen=True, slots=True)
class gated:
    """The step from a pair of tensors to ``act`` of the first, times the second."""

    act: Step

    def __call__(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        gate, x = pair
        return self.act(gate) * x


class glu:
    """The step ``layers`` of the first half of the channels, times the second half.

    ``layers`` are steps and end with an activation. x: (..., 2 * dim) -> (..., dim)
    """

    __slots__ = ("layers",)

    def __init__(self, *layers: Step) -> None:
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        gate, x = x.chunk(2, dim=-1)
        return sequential(gate.contiguous(), *self.layers) * x


def sequential(x: Any, *steps: Step) -> Any:
    """``for step in steps: x = step(x)``, by the fastest kernels that give the same.

    Args:
        x: What the first step takes: a tensor, or a pair of tensors for ``gated``.
        steps: Modules of a block, and between them the views ``to_nchw`` and ``to_nhwc``, ``shortcut``, ``gated``,
            ``glu`` and ``matmul``. An ``nn.Sequential`` counts as its modules.
            Linear layers and activations take any layout whose last dimension is the channels, convolutions and batch
            norms (B, C, H, W).
    """
    known: list[tuple[str, Any]] = []
    observed = calls_are_observed()
    for step in steps if observed else _flat(steps):
        kind = "" if observed else _kind(step)
        if kind:
            known.append((kind, step))
            continue
        x = step(_run(x, known) if known else x)
        known = []
    return _run(x, known) if known else x


# Which steps are known and plain --------------------------------------------------------------------------------------

_KINDS: dict[type, str] = {}
_FORWARDS: dict[type, Any] = {}
_CALL = nn.Module.__call__
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_compiled_call_impl")


def register_layer(layer: type[nn.Module], kind: str) -> None:
    """Make a module known to ``sequential``.

    Args:
        layer: Its type; subclasses are not meant.
        kind: "linear", "conv", "norm", "rms", "act", "identity" or "container"; "scale" multiplies by ``gamma``.
    """
    _KINDS[layer] = kind
    _FORWARDS[layer] = layer.forward


for _layer, _name in (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.BatchNorm2d, "norm"),
    (nn.RMSNorm, "rms"),
    (nn.GELU, "act"),
    (nn.ReLU, "act"),
    (nn.SiLU, "act"),
    (nn.Identity, "identity"),
    (nn.Sequential, "container"),
):
    register_layer(_layer, _name)


def calls_are_observed() -> bool:
    """``is_observed``, or someone looks at the calls of all modules."""
    hooks = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    backward_hooks = torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks
    return is_observed() or bool(hooks or backward_hooks) or nn.Module.__call__ is not _CALL


def _kind(step: Any) -> str:
    """The kind of a step that is known and plain, "" of any other."""
    if step is to_nchw or step is to_nhwc:
        return "view"
    kind = _KINDS.get(type(step), "")
    if not kind:
        if type(step) is matmul:
            return "matmul"
        if type(step) is gated:
            return "gate" if _kind(step.act) == "act" else ""
        if type(step) is glu:
            return "glu" if _is_plain_glu(step) else ""
        if type(step) is shortcut and len(step.layers) == 1 and _kind(step.layers[0]) == "conv":
            conv: Any = step.layers[0]
            return "shortcut" if conv.groups == conv.in_channels and _keeps_size(conv) else ""
        return ""
    state = step.__dict__
    if type(step).forward is not _FORWARDS[type(step)] or "forward" in state or any(map(state.get, _HOOKS)):
        return ""
    for p in state["_parameters"].values():
        if p is not None and (type(p) not in (nn.Parameter, Tensor) or p.device.type != "cpu"):
            return ""
    if kind in ("linear", "conv") and "weight" not in state["_parameters"]:
        return ""  # something computes it
    if kind == "norm" and (step.training or step.running_mean is None or not step.affine):
        return ""
    if kind == "rms" and (step.eps is None or step.weight is None or len(step.normalized_shape) != 1):
        return ""
    if kind == "conv" and (step.padding_mode != "zeros" or isinstance(step.padding, str)):
        return ""
    return kind


def _flat(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps, with the modules of a plain ``nn.Sequential`` in its place."""
    for step in steps:
        if isinstance(step, nn.Sequential) and _kind(step):
            yield from _flat(step)
        else:
            yield step


def _is_plain_glu(step: glu) -> bool:
    """Whether its layers are depthwise convolutions that keep the size of their map, and an activation after them."""
    kinds = [_kind(layer) for layer in step.layers]
    convs: list[Any] = [layer for layer, kind in zip(step.layers, kinds, strict=True) if kind == "conv"]
    depthwise = all(conv.groups == conv.in_channels == conv.out_channels and _keeps_size(conv) for conv in convs)
    return set(kinds) <= {"view", "conv", "act"} and kinds[-1:] == ["act"] and kinds.count("act") == 1 and depthwise


def _keeps_size(conv: nn.Conv2d) -> bool:
    halves = tuple(k // 2 * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    return conv.stride == (1, 1) and conv.padding == halves and all(k % 2 for k in conv.kernel_size)


def _act_name(act: nn.Module) -> str:
    """Its name in ``convolution.ACTS``."""
    if type(act) is nn.GELU:
        return "gelu" if act.approximate == "none" else "gelu_tanh"
    return "relu" if type(act) is nn.ReLU else "silu"


# Running known steps --------------------------------------------------------------------------------------------------


def _run(x: Any, steps: Sequence[tuple[str, Any]]) -> Any:
    """Run known steps. Inside, every map is (B, H, W, C); the views tell how it comes and leaves."""
    inputs = x if isinstance(x, tuple) else (x,)
    layers = [step for step in steps if step[0] not in ("view", "identity")]
    autocast = torch.is_autocast_enabled("cpu")
    matches = autocast or all(t.dtype == inputs[0].dtype for _, step in layers for t in _tensors(step))
    if not layers or not serves(*inputs) or not matches:
        for _, step in steps:
            x = step(x)
        return x
    views = [step for kind, step in steps if kind == "view"]
    channels_first = any(kind in ("conv", "norm", "shortcut") for kind, _ in layers)
    comes_nchw = views[0] is to_nhwc if views else channels_first
    leaves_nchw = views[-1] is to_nchw if views else channels_first
    x = to_nhwc(x) if comes_nchw else x
    y = _train(x, layers) if torch.is_grad_enabled() else _infer(x, layers)
    return to_nchw(y) if leaves_nchw else y


def _tensors(step: Any) -> list[Tensor]:
    """Weight and bias of a step that has them."""
    if type(step) in (shortcut, glu):
        return [t for layer in step.layers for t in _tensors(layer)]
    parameters = getattr(step, "_parameters", {})
    return [p for p in parameters.values() if p is not None]


def _known(steps: Sequence[Step]) -> list[tuple[str, Any]]:
    """The plain steps of a ``glu`` with their kinds, but for views."""
    return [(_kind(step), step) for step in steps if step is not to_nchw and step is not to_nhwc]


def _weights(layers: Sequence[tuple[str, Any]]) -> Iterator[Tensor | None]:
    """Weight and bias of each layer in turn, as ``_evaluate`` takes them."""
    for kind, step in layers:
        if kind in ("shortcut", "glu"):
            yield from _weights(_known(step.layers))
        elif kind in ("linear", "conv", "rms"):
            yield step.weight
            yield getattr(step, "bias", None)


def _infer(x: Any, layers: list[tuple[str, Any]]) -> Tensor:
    """Without gradients; a batch in chunks if its hidden maps are large."""
    widths = [layer.out_features for kind, layer in layers[:-1] if kind == "linear"]
    if not widths or not isinstance(x, Tensor) or x.ndim < 3 or any(kind == "matmul" for kind, _ in layers):
        return _evaluate(layers, None, x)
    return by_images(partial(_evaluate, layers, None), x, x.shape[1:-1].numel() * max(widths) * x.element_size())


def _evaluate(layers: Sequence[tuple[str, Any]], parameters: Iterator[Tensor | None] | None, x: Any) -> Tensor:
    """The layers in turn, each with the activation or norm after it, with other weights and biases where given."""

    def own(layer: Any) -> tuple[Tensor, Tensor | None]:
        if parameters is None:
            return layer.weight, getattr(layer, "bias", None)
        return next(parameters), next(parameters)  # type: ignore[return-value]

    i = 0
    while i < len(layers):
        kind, layer = layers[i]
        i += 1
        after: tuple[str, Any] = layers[i] if i < len(layers) else ("", None)
        if kind == "matmul" and after[0] == "linear" and x.shape[1] > x.shape[2] and computes_in(x, torch.float32):
            x = _matmul_linear(x, layer.matrix, after[1])
            i += 1
        elif kind in ("linear", "conv", "shortcut"):
            conv = layer.layers[0] if kind == "shortcut" else layer
            weight, bias = own(conv)
            if kind == "linear" and after[0] == "glu":
                x = _linear_glu(x, weight, bias, after[1], parameters)
                i += 1
                continue
            if (
                kind != "shortcut"
                and after[0] == "norm"
                and not torch.is_grad_enabled()
                and computes_in(x, torch.float32)
            ):
                weight, bias = _fold_norm(after[1], weight, bias)
                i += 1
                after = layers[i] if i < len(layers) else ("", None)
            act = "none"
            if after[0] == "act":
                act = _act_name(after[1])
                i += 1
            x = _convolve(kind, conv, x, weight, bias, act)
        elif kind == "rms":
            weight, _ = own(layer)
            narrows = after[0] == "linear" and after[1].out_features < after[1].in_features
            if narrows and not torch.is_grad_enabled() and computes_in(x, torch.float32):
                x = _rms_norm_linear(x, weight, layer.eps, *own(after[1]))
                i += 1
            else:
                x = F.rms_norm(x, layer.normalized_shape, weight, layer.eps)
        elif kind == "norm":
            x = to_nhwc(layer(to_nchw(x)))
        elif kind == "act":  # never in place: ``x`` may be stored for the backward pass
            x = ACTS[_act_name(layer)][0](x)
        elif kind == "gate":
            x = ACTS[_act_name(layer.act)][0](x[0]) * x[1]
        elif kind == "glu":
            gate, x = x.chunk(2, dim=-1)
            x = _evaluate(_known(layer.layers), parameters, gate.contiguous()) * x
        else:
            x = layer(x)
    return x


def _convolve(kind: str, layer: Any, x: Tensor, weight: Any, bias: Tensor | None, act: str = "none") -> Tensor:
    """A linear layer, or a convolution on a (B, H, W, C) map, and an activation."""
    if kind == "linear":
        return linear(x, weight, bias, act)
    if kind == "shortcut":  # x + conv(x) is a convolution too, which saves a pass over the map
        top, left = (k // 2 for k in layer.kernel_size)
        weight = weight + F.pad(weight.new_ones(1, 1, 1, 1), (left, left, top, top))
    options = layer.stride, layer.padding, layer.dilation, layer.groups
    return to_nhwc(conv2d(to_nchw(x), weight, bias, *options, act))


def _fold_norm(norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer together with the norm after it."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), norm.bias - mean * scale


def _halves(weight: Tensor, bias: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weights and biases of the two layers that compute half of the channels each."""
    return zip(weight.chunk(2), (None, None) if bias is None else bias.chunk(2), strict=True)


def _linear_glu(
    x: Tensor, weight: Tensor, bias: Tensor | None, step: glu, parameters: Iterator[Tensor | None] | None
) -> Tensor:
    """``step`` after a linear layer, whose halves are never side by side."""
    first, second = _halves(weight, bias)
    gate = _evaluate(_known(step.layers), parameters, linear(x, *first))
    return linear(x, *second, times=gate)


def _rms_norm_linear(x: Tensor, scale: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer after RMSNorm: what the norm multiplies pixels by goes onto the narrower result."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    factor = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = linear(x, weight * scale)
    return y.mul_(factor) if bias is None else torch.addcmul(bias, y, factor)


def _matmul_linear(x: Tensor, matrix: Tensor, layer: nn.Linear) -> Tensor:
    """``layer(matmul(matrix)(x))`` with one matrix an image; neither x nor the product is copied."""
    B, G, d, _ = matrix.shape
    rows = layer.weight.t().reshape(G, d, -1)  # that each group's channels meet
    weight = (matrix @ rows).view(B, G * d, -1)
    return x @ weight if layer.bias is None else torch.baddbmm(layer.bias, x, weight)


# Training -------------------------------------------------------------------------------------------------------------

_RECOMPUTED_BYTES = 8 * 2**20


def _train(x: Any, layers: list[tuple[str, Any]]) -> Tensor:
    """With gradients: what leaves an activation is not stored, nor hidden maps that are cheap to compute again."""
    i = 0
    while i < len(layers):
        kind, layer = layers[i]
        last = next((j for j in range(i + 1, len(layers)) if layers[j][0] == "linear"), 0)
        between = layers[i + 1 : last]
        if kind == "linear" and last and between and _is_cheap(x, layer, between):
            x = _recomputed(layers[i:last], layers[last][1], x)
            i = last + 1
        elif kind == "linear" and layers[i + 1 : i + 2] and layers[i + 1][0] == "glu":
            *before, act = layers[i + 1][1].layers
            gate, x = (linear(x, *half) for half in _halves(layer.weight, layer.bias))
            x = _evaluate(_known(before), None, gate), x
            layers = [*layers[: i + 1], ("gate", gated(act)), *layers[i + 2 :]]
            i += 1
        elif kind in ("act", "gate") and last and all(kind == "rms" for kind, _ in between):
            x = _recomputed(layers[i:last], layers[last][1], x)
            i = last + 1
        else:
            width = 2 if kind == "matmul" and last == i + 1 else 1
            x = _evaluate(layers[i : i + width], None, x)
            i += width
    return x


def _is_cheap(x: Tensor, layer: nn.Linear, between: Sequence[tuple[str, Any]]) -> bool:
    """Whether the hidden maps between two linear layers are computed a second time rather than stored.

    From few channels that takes less time than the memory: glibc takes blocks above 32 MiB from the kernel anew, page
    by page, and a block's hidden maps and their gradients are four of them.
    """
    if any(kind not in ("act", "conv", "shortcut", "glu", "rms") for kind, _ in between):
        return False
    convs = [conv.layers[0] if kind == "shortcut" else conv for kind, conv in between if kind in ("conv", "shortcut")]
    if not all(_keeps_size(conv) and conv.groups == conv.in_channels == conv.out_channels for conv in convs):
        return False
    return layer.in_features <= 128 and x.shape[:-1].numel() * layer.out_features * x.element_size() > 32 * 2**20


def _recomputed(layers: list[tuple[str, Any]], final: nn.Linear, x: Any) -> Tensor:
    """``final`` after ``layers``, of which only the input is stored."""
    inputs = x if isinstance(x, tuple) else (x,)
    shape = inputs[0].shape[:-1]
    if all(kind in ("linear", "act", "gate", "rms") for kind, _ in layers):  # rows are independent
        inputs = tuple(t.reshape(-1, t.shape[-1]) for t in inputs)
    dtype = compute_dtype(inputs[0])  # autocast does not see into the function
    tensors = [t if t is None else t.to(dtype) for t in (final.weight, final.bias, *inputs, *_weights(layers))]
    entry = inputs[0].shape[1:-1].numel() * final.in_features * inputs[0].element_size()
    chunk = even_chunk(len(inputs[0]), _RECOMPUTED_BYTES // entry)
    out = _Recomputed.apply(layers, chunk, len(inputs), *tensors)
    return out.view(*shape, -1)


class _Recomputed(torch.autograd.Function):
    """A linear layer after other layers, which stores what these are given and nothing of what they compute.

    Takes the layers, how many entries of the first dimension make a chunk, the number of inputs, then tensors: weight
    and bias of the linear layer, the inputs, weights and biases of the other layers. Both passes compute the hidden
    maps chunk by chunk, so that they stay in the cache and never exist as a whole.
    """

    @staticmethod
    def hidden(layers: list[tuple[str, Any]], count: int, tensors: Sequence[Tensor]) -> Tensor:
        """What enters the linear layer, from the inputs and parameters of the other layers."""
        x = tensors[0] if count == 1 else tuple(tensors[:count])
        return _evaluate(layers, iter(tensors[count:]), x)

    @staticmethod
    def forward(
        layers: list[tuple[str, Any]], chunk: int, count: int, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        inputs, parameters = tensors[:count], tensors[count:]
        out = inputs[0].new_empty(*inputs[0].shape[:-1], weight.shape[0])
        for y, *x in zip(*(t.split(chunk) for t in (out, *inputs)), strict=True):
            y.copy_(linear(_Recomputed.hidden(layers, count, (*x, *parameters)), weight, bias))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.layers, ctx.chunk, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *tensors = ctx.saved_tensors
        count, (needs_weight, needs_bias, *needed) = ctx.count, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # gradients of gradients are wanted

            def plain(weight: Tensor, bias: Tensor | None, *tensors: Tensor) -> Tensor:
                return F.linear(_Recomputed.hidden(ctx.layers, count, tensors), weight, bias)

            needed = ctx.needs_input_grad[3:]
            return None, None, None, *differentiable_gradients(plain, (weight, bias, *tensors), needed, grad)
        inputs, parameters = tensors[:count], tensors[count:]
        # A sum over chunks in bfloat16 would stand still at 256 times a chunk; autograd casts what is returned.
        grad_weight, *grad_parameters = (
            None if t is None else torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32))
            for t in (weight, *parameters)
        )
        grad_bias = grad.flatten(0, -2).sum(0) if needs_bias else None
        grad_inputs = [torch.empty_like(t) for t in inputs]
        wanted = [i for i, need in enumerate(needed) if need]
        for g, *chunks in zip(*(t.split(ctx.chunk) for t in (grad, *inputs, *grad_inputs)), strict=True):
            leaves = [t if t is None else t.detach() for t in (*chunks[:count], *parameters)]
            for leaf, need in zip(leaves, needed, strict=True):
                if leaf is not None:
                    leaf.requires_grad_(need)
            with torch.enable_grad():
                hidden = _Recomputed.hidden(ctx.layers, count, leaves)
            if needs_weight:
                rows = g.flatten(0, -2), hidden.detach().flatten(0, -2)
                grad_weight.add_(product_gradient(*rows, weight))  # type: ignore[union-attr]
            if not wanted:
                continue
            found = torch.autograd.grad(hidden, [leaves[i] for i in wanted], linear(g, weight.t()))
            for i, t in zip(wanted, found, strict=True):
                if i < count:
                    chunks[count + i].copy_(t)
                else:
                    grad_parameters[i - count].add_(t)  # type: ignore[union-attr]
        return None, None, None, grad_weight, grad_bias, *grad_inputs, *grad_parameters
