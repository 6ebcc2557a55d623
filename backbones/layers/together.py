"""Layers run together with what stands beside them, where that is faster or smaller; they stay modules of their own.

What has been put on a layer from outside, an adapter, a parametrization or a hook, must see what goes in and comes out
of it. A layer that carries such a thing is called as it is, with the activation after it.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.depthwise import DepthwiseConv
from backbones.layers.kernels import activate, compute_dtype, fuses_pointwise, use_fast_kernels, use_fast_paths
from backbones.layers.layout import to_nchw, to_nhwc
from backbones.layers.linear import Linear, linear

_CHUNK_BYTES = 8 * 2**20


def has_hooks(module: nn.Module) -> bool:
    """Whether someone listens to what goes in and comes out of a module, or to the gradients of that."""
    kinds = module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks
    return any(kinds)


def is_bare(layer: nn.Module) -> bool:
    """Whether a layer is one of this package's with nothing added, so that its parameters say what calling it does."""
    return type(layer) in (Linear, DepthwiseConv) and not has_hooks(layer)


def gelu_of(layer: nn.Module, x: Tensor, approximate: str = "none") -> Tensor:
    """``F.gelu(layer(x))``; in inference on a CPU one operator, which applies it as it stores its result.

    Args:
        layer: A ``Linear`` or a ``DepthwiseConv``.
        x: What it takes.
        approximate: As in ``F.gelu``.
    """
    if is_bare(layer) and fuses_pointwise(x):
        return layer.run(x, "gelu" if approximate == "none" else "gelu_tanh")
    return F.gelu(layer(x), approximate=approximate)


def norm_of(layer: nn.Module, norm: nn.BatchNorm2d, x: Tensor, act: str = "none") -> Tensor:
    """``act(norm(layer(x)))`` of a map; in inference on a CPU one operator, with the norm in the weights.

    Args:
        layer: A ``Linear``.
        norm: What follows it.
        x: (B, H, W, C) -> (B, H, W, C_out)
        act: As in ``kernels.activate``.
    """
    plain = type(norm) is nn.BatchNorm2d and not (norm.training or has_hooks(norm))
    if not (plain and is_bare(layer) and fuses_pointwise(x) and use_fast_kernels(x)):
        return activate(to_nhwc(norm(to_nchw(layer(x)))), act)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias
    return linear(x, layer.weight * scale[:, None], norm.bias - mean * scale, act)


def _rows(tensors: tuple[Tensor, ...], width: int) -> Iterator[tuple[Tensor, ...]]:
    """The rows of tensors (..., C) that go together, as many at a time as stay in the cache if ``width`` wide."""
    rows = max(64, _CHUNK_BYTES // (width * tensors[0].element_size()))
    return zip(*(t.reshape(-1, t.shape[-1]).split(rows) for t in tensors), strict=True)


class _LinearOf(torch.autograd.Function):
    """``F.linear(act(*inputs), weight, bias)``, which keeps ``inputs`` and not what ``act`` makes of them."""

    @staticmethod
    def forward(act: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        out = inputs[0].new_empty(*inputs[0].shape[:-1], weight.shape[0])
        for y, *x in _rows((out, *inputs), weight.shape[1]):
            y.copy_(linear(act(*x), weight, bias))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.act, weight, bias, *tensors = inputs
        ctx.save_for_backward(weight, bias, *tensors)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # gradients of gradients are asked for
            wanted = [t for t, need in zip((weight, bias, *inputs), needed, strict=True) if need]
            out = F.linear(ctx.act(*inputs), weight, bias)
            found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
            return None, *(next(found) if need else None for need in needed)
        grad_weight = torch.zeros_like(weight) if needed[0] else None
        grad_inputs = [x.new_empty(x.shape) for x in inputs]
        for g, *tensors in _rows((grad, *inputs, *grad_inputs), weight.shape[1]):
            x = [t.detach().requires_grad_() for t in tensors[: len(inputs)]]
            with torch.enable_grad():
                activated = ctx.act(*x)
            if grad_weight is not None:
                grad_weight.addmm_(g.t(), activated.detach())
            if any(needed[2:]):
                for to, found in zip(tensors[len(inputs) :], torch.autograd.grad(activated, x, linear(g, weight.t()))):
                    to.copy_(found)
        return None, grad_weight, grad.reshape(-1, grad.shape[-1]).sum(0) if needed[1] else None, *grad_inputs


def linear_of(act: Callable[..., Tensor], layer: nn.Module, *inputs: Tensor) -> Tensor:
    """``layer(act(*inputs))``; in training on a CPU what ``act`` makes is neither kept nor ever there as a whole.

    It is the widest map of a block. The backward pass makes it again, some rows at a time, which stay in the cache:
    that takes less time than memory mapped anew for it, and a third to a half of the memory of the hidden maps.

    Args:
        act: Pointwise function of ``inputs``.
        layer: A ``Linear``.
        inputs: (..., in_features) each -> (..., out_features)
    """
    x = inputs[0]
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not is_bare(layer) or not use_fast_paths(x) or not torch.is_grad_enabled() or traced:
        return layer(act(*inputs))
    dtype = compute_dtype(x)  # autocast does not look into it
    tensors = (t if t is None else t.to(dtype) for t in (layer.weight, layer.bias, *inputs))
    return _LinearOf.apply(act, *tensors)


def chain(x: Tensor, first: nn.Linear, second: nn.Linear, gate: Tensor | None = None) -> Tensor:
    """``second(gate * first(x))``; on a CPU in float32, without gradients, as one product where rows enough pay for it.

    x: (B, N, C), gate: (B, C_mid) or None -> (B, N, C_out). Making the one matrix costs as much as C_out rows of x do.
    """
    bare = is_bare(first) and is_bare(second)
    if not (bare and fuses_pointwise(x) and use_fast_kernels(x)) or x.shape[1] < 2 * second.out_features:
        y = first(x)
        return second(y if gate is None else y * gate[:, None])
    if gate is None:
        return linear(x, second.weight @ first.weight, second.weight @ first.bias + second.bias)
    weights = [second.weight * g for g in gate]
    return torch.stack(
        [linear(y, w @ first.weight, w @ first.bias + second.bias) for y, w in zip(x, weights, strict=True)]
    )
