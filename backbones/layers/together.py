"""Layers run together with what stands beside them, where that is faster or smaller; they stay modules of their own.

What has been put on a layer from outside, an adapter, a parametrization or a hook, must see what goes in and comes out
of it. A layer that carries such a thing is called as it is, with the activation after it.
"""

from collections.abc import Callable, Sequence

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


def gelu_name(approximate: str) -> str:
    """The name in ``kernels.activate`` of a GELU with ``approximate`` as in ``F.gelu``."""
    return "gelu" if approximate == "none" else "gelu_tanh"


def gelu_of(layer: nn.Module, x: Tensor, approximate: str = "none") -> Tensor:
    """``F.gelu(layer(x))``; in inference on a CPU one operator, which applies it as it stores its result.

    Args:
        layer: A ``Linear`` or a ``DepthwiseConv``.
        x: What it takes.
        approximate: As in ``F.gelu``.
    """
    if is_bare(layer) and fuses_pointwise(x):
        return layer.run(x, gelu_name(approximate))
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


class _LinearOf(torch.autograd.Function):
    """``F.linear(act(*inputs, *params), weight, bias)``, which keeps what it is given and not what ``act`` makes of it.

    ``tensors`` are ``count`` inputs, of which ``step`` entries of the first dimension go at a time, and the params.
    """

    @staticmethod
    def forward(
        act: Callable[..., Tensor], step: int, count: int, weight: Tensor, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        inputs, params = tensors[:count], tensors[count:]
        out = inputs[0].new_empty(*inputs[0].shape[:-1], weight.shape[0])
        for y, *x in zip(*(t.split(step) for t in (out, *inputs)), strict=True):
            y.copy_(linear(act(*x, *params), weight, bias))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.act, ctx.step, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *tensors = ctx.saved_tensors
        needs_weight, needs_bias, *needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # gradients of gradients are asked for
            everything = zip((weight, bias, *tensors), ctx.needs_input_grad[3:], strict=True)
            out = F.linear(ctx.act(*tensors), weight, bias)
            found = iter(torch.autograd.grad(out, [t for t, need in everything if need], grad, create_graph=True))
            return tuple(next(found) if need else None for need in ctx.needs_input_grad)
        inputs, params = tensors[: ctx.count], tensors[ctx.count :]
        # A sum over pieces in bfloat16 would stand still at 256 times a piece; autograd casts what is returned.
        grad_weight, *grad_params = (
            torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in (weight, *params)
        )
        grad_bias = grad.flatten(0, -2).sum(0) if needs_bias else None
        grad_inputs = [torch.empty_like(t) for t in inputs]
        wanted = [i for i, need in enumerate(needed) if need]
        for g, *parts in zip(*(t.split(ctx.step) for t in (grad, *inputs, *grad_inputs)), strict=True):
            leaves = [t.detach() for t in (*parts[: ctx.count], *params)]
            for leaf, need in zip(leaves, needed, strict=True):
                leaf.requires_grad_(need)
            with torch.enable_grad():
                activated = ctx.act(*leaves)
            if needs_weight:
                grad_weight.add_(g.flatten(0, -2).t() @ activated.detach().flatten(0, -2))
            if not wanted:
                continue
            found = torch.autograd.grad(activated, [leaves[i] for i in wanted], linear(g, weight.t()))
            for i, t in zip(wanted, found, strict=True):
                if i < ctx.count:
                    parts[ctx.count + i].copy_(t)
                else:
                    grad_params[i - ctx.count].add_(t)
        return None, None, None, grad_weight, grad_bias, *grad_inputs, *grad_params


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def linear_of(
    act: Callable[..., Tensor], layer: nn.Module, *inputs: Tensor, params: Sequence[Tensor] = (), images: bool = False
) -> Tensor:
    """``layer(act(*inputs, *params))``; in training on a CPU what ``act`` makes is not kept, nor ever there as a whole.

    It is the widest map of a block. The backward pass makes it again, a few rows or images at a time, which stay in the
    cache: that takes less time than memory mapped anew for it, and a third to a half of the memory of the hidden maps.

    Args:
        act: Function of ``inputs`` and ``params`` that treats rows of ``inputs`` separately.
        layer: A ``Linear``.
        inputs: (..., C) each -> (..., out_features)
        params: Tensors that ``act`` takes whole, such as weights.
        images: ``act`` treats entries of the first dimension separately, and not their rows.
    """
    x = inputs[0]
    if not is_bare(layer) or not use_fast_paths(x) or not torch.is_grad_enabled() or _is_traced():
        return layer(act(*inputs, *params))
    shape = x.shape[:-1]
    if not images:
        inputs = tuple(t.reshape(-1, t.shape[-1]) for t in inputs)
    dtype = compute_dtype(x)  # autocast does not look into it
    weight, bias, *tensors = (t if t is None else t.to(dtype) for t in (layer.weight, layer.bias, *inputs, *params))
    held = inputs[0].shape[1:-1].numel() * layer.in_features * x.element_size()
    out = _LinearOf.apply(act, max(1, _CHUNK_BYTES // held), len(inputs), weight, bias, *tensors)
    return out.view(*shape, -1)


def is_remade(x: Tensor, width: int) -> bool:
    """Whether training makes a map of ``width`` channels from ``x`` (..., C) a second time instead of keeping it.

    From few channels that is cheaper on a CPU than the memory: glibc takes blocks above 32 MiB from the kernel anew,
    page by page, and a block's hidden maps and their gradients are four of them.
    """
    if not torch.is_grad_enabled() or _is_traced() or not use_fast_paths(x):
        return False
    return x.shape[-1] <= 128 and x.shape[:-1].numel() * width * x.element_size() > 32 * 2**20


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
