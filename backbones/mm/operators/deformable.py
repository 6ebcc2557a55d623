"""Deformable convolution, with and without modulation, and multi-scale deformable attention."""

from functools import partial

import torch
import torchvision
from torch import Tensor

from ._types import gradients, widen, without_autocast

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
]

# Offsets are (B, 2 * groups * kernel area, H, W), y first, and masks (B, groups * kernel area, H, W) for an output of
# H x W; stride, padding and dilation are pairs, height first.
Pair = tuple[int, int]


def _off_the_edge(offset: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Move points at exactly -1 to -2. They count as 0 either way.

    There torchvision's gradient is the slope towards the image and mmcv's is 0. It matters: with offsets that start at
    zero and a padding of 1, all points above and left of the image lie there.
    """
    places = []
    for axis in (0, 1):
        steps = torch.arange(offset.shape[2 + axis], device=offset.device) * stride[axis] - padding[axis]
        within = torch.arange(kernel[axis], device=offset.device) * dilation[axis]
        shape = [1, 1, 1, 1, 1, 1]  # (B, groups, kernel rows, kernel columns, H, W)
        shape[2 + axis], shape[4 + axis] = len(within), len(steps)
        places.append((within[:, None] + steps).view(shape).expand(1, 1, *kernel, *offset.shape[2:]))
    points = offset.unflatten(1, (-1, *kernel, 2))
    at_edge = points.transpose(3, 4).transpose(2, 3)  # (B, groups, 2, kernel rows, kernel columns, H, W)
    at_edge = at_edge + torch.stack(places, dim=2) == -1
    return offset - at_edge.movedim(2, 4).flatten(1, 4).to(offset.dtype)


def _convolve(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def _convolve_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    deform_groups: int,
) -> tuple[Tensor, ...]:
    """Gradients for input, weight, offset, mask and bias."""
    kernel = (weight.shape[2], weight.shape[3])
    offset = _off_the_edge(offset, kernel, stride, padding, dilation)
    use_mask = mask is not None
    # torchvision has no public name for it; through autograd of deform_conv2d it would cost a forward pass more.
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output,
        input,
        weight,
        offset,
        mask if mask is not None else input.new_zeros(len(input), 1),
        weight.new_zeros(len(weight)),
        *stride,
        *padding,
        *dilation,
        groups,
        deform_groups,
        use_mask,
    )


@without_autocast
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution into ``output``; ``columns`` and ``ones`` are scratch memory of the compiled one."""
    input, offset, weight = widen(input, offset, weight)
    output.copy_(_convolve(input, offset, weight, None, None, (dH, dW), (padH, padW), (dilationH, dilationW)))


@without_autocast
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients for input and offsets, and that of the weight into ``columns``.

    torchvision computes all three at once; the next call, :func:`deform_conv_backward_parameters`, finds it there.
    """
    grad, input, offset, weight = widen(grad_output, input, offset, weight)
    steps = ((dH, dW), (padH, padW), (dilationH, dilationW))
    results = _convolve_backward(grad, input, offset, weight, None, *steps, group, deformable_group)
    grad_input.copy_(results[0])
    columns.resize_(weight.shape).copy_(results[1])
    grad_offset.copy_(results[2])


@without_autocast
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """The gradient for the weight, from ``columns`` or, where only the weight learns, computed here."""
    result = columns
    if not columns.numel():
        grad, input, offset, weight = widen(grad_output, input, offset, grad_weight)
        steps = ((dH, dW), (padH, padW), (dilationH, dilationW))
        result = _convolve_backward(grad, input, offset, weight, None, *steps, group, deformable_group)[1]
    grad_weight.add_(result.to(grad_weight.dtype), alpha=scale)


def _as_compiled_reads(x: Tensor, size: torch.Size) -> Tensor:
    """``(B, N, h, w)`` as ``(B, N, H, W)``, for maps that are larger than the output.

    mmcv does not look at their height and width and reads their memory in rows of the output's width. DyHead passes the
    offsets of a finer level this way, and its published weights have learnt with that.

    Raises:
        ValueError: they are smaller than the output.
    """
    if x.shape[2:] == size:
        return x
    count = x.shape[1] * size[0] * size[1]
    if x[0].numel() < count:
        raise ValueError(f"offsets or masks of {tuple(x.shape[2:])} for an output of {tuple(size)}: they are too small")
    return x.flatten(1)[:, :count].unflatten(1, (x.shape[1], *size))


def _write_back(target: Tensor, grad: Tensor) -> None:
    """The inverse of :func:`_as_compiled_reads`: what was not read gets zeros."""
    if target.shape != grad.shape:
        grad = torch.nn.functional.pad(grad.flatten(1), (0, target[0].numel() - grad[0].numel())).view(target.shape)
    target.copy_(grad)


@without_autocast
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution whose kernel points are multiplied by ``mask``, into ``output``."""
    input, weight, bias, offset, mask = widen(input, weight, bias, offset, mask)
    offset, mask = (_as_compiled_reads(x, output.shape[2:]) for x in (offset, mask))
    steps = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    output.copy_(_convolve(input, offset, weight, bias if with_bias else None, mask, *steps))


@without_autocast
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients for everything that learns, into the tensors named after it."""
    grad, input, weight, offset, mask = widen(grad_output, input, weight, offset, mask)
    offset, mask = (_as_compiled_reads(x, grad.shape[2:]) for x in (offset, mask))
    steps = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    results = _convolve_backward(grad, input, offset, weight, mask, *steps, group, deformable_group)
    grad_input.copy_(results[0])
    grad_weight.copy_(results[1])
    _write_back(grad_offset, results[2])
    _write_back(grad_mask, results[3])
    if with_bias:
        grad_bias.copy_(results[4])


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch  # mmcv's own, for CPUs

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


@without_autocast
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention: ``(B, queries, heads * head_dim)``.

    Args:
        value: ``(B, keys, heads, head_dim)``.
        value_spatial_shapes: ``(levels, 2)``, height and width.
        value_level_start_index: ``(levels,)``.
        sampling_locations: ``(B, queries, heads, levels, points, 2)``, x and y, from 0 to 1.
        attention_weights: ``(B, queries, heads, levels, points)``.
        im2col_step: images at once in the compiled one.
    """
    tensors = widen(value, sampling_locations, attention_weights)
    attend = partial(_attend, shapes=value_spatial_shapes)
    return attend(*tensors).to(value.dtype)


@without_autocast
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients for values, locations and weights, into the tensors named after them."""
    grad, *tensors = widen(grad_output, value, sampling_locations, attention_weights)
    results = gradients(partial(_attend, shapes=value_spatial_shapes), grad, *tensors)
    for target, result in zip((grad_value, grad_sampling_loc, grad_attn_weight), results):
        target.copy_(result)
