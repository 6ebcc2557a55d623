"""Operators over whole maps: masked convolution, CARAFE, PSANet's mask, synchronised batch norm."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ._types import gradients, widen, without_autocast

__all__ = [
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "psamask_backward",
    "psamask_forward",
    "sync_bn_backward_data",
    "sync_bn_backward_param",
    "sync_bn_forward_mean",
    "sync_bn_forward_output",
    "sync_bn_forward_var",
]


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """The neighbourhoods of chosen pixels: ``(1, C, H, W)`` into ``data_col``, ``(C * kernel area, pixels)``."""
    padded = F.pad(features[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=features.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=features.device)[:, None]
    data_col.copy_(padded[:, rows, columns].flatten(0, 2))


def masked_col2im_forward(
    data_col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    output: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Chosen pixels back in their places: ``(C, pixels)`` into ``output``, ``(1, C, H, W)``."""
    output[0][:, mask_h_idx, mask_w_idx] = data_col.to(output.dtype)


def _carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int) -> Tensor:
    """Upsample by sums over a neighbourhood, weights ``(B, groups * kernel_size^2, s * H, s * W)``."""
    height, width = features.shape[2:]
    patches = F.unfold(features, kernel_size, padding=kernel_size // 2)
    patches = patches.unflatten(1, (group_size, -1, kernel_size**2)).unflatten(-1, (height, width))
    weights = masks.unflatten(1, (group_size, -1)).unflatten(3, (height, -1)).unflatten(5, (width, -1))
    return torch.einsum("bgckhw,bgkhiwj->bgchiwj", patches, weights).flatten(5, 6).flatten(3, 4).flatten(1, 2)


@without_autocast
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """CARAFE, into ``output``."""
    carafe = partial(_carafe, kernel_size=kernel_size, group_size=group_size)
    output.copy_(carafe(*widen(features, masks)))


@without_autocast
def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients for features and masks, into ``grad_input`` and ``grad_masks``."""
    tensors = widen(grad_output, features, masks)
    results = gradients(partial(_carafe, kernel_size=kernel_size, group_size=group_size), *tensors)
    grad_input.copy_(results[0])
    grad_masks.copy_(results[1])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE, into ``output``. ``rfeatures`` keeps the features for the gradient; the other two are scratch memory."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients for features and masks, into ``grad_input`` and ``grad_masks``."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


def _psamask(masks: Tensor, psa_type: int, mask_size: tuple[int, int], half: tuple[int, int]) -> Tensor:
    """Attention of every pixel over its neighbourhood as attention over the map: ``(B, H * W, H, W)``."""
    height, width = masks.shape[2:]
    place, inside = [], []
    for size, length, middle in zip((height, width), mask_size, half):
        index = torch.arange(size, device=masks.device)
        step = index[:, None] - index + middle  # from a pixel (second) to the one it attends to (first)
        inside.append((step >= 0) & (step < length))
        place.append(step.clamp(0, length - 1))
    index = place[0][:, None, :, None] * mask_size[1] + place[1][None, :, None, :]
    inside = (inside[0][:, None, :, None] & inside[1][None, :, None, :]).reshape(height * width, -1)
    index = index.reshape(height * width, -1).expand(len(masks), -1, -1)
    attention = masks.flatten(2).gather(1, index) * inside
    if psa_type == 1:  # "distribute"; 0 is "collect"
        attention = attention.transpose(1, 2)
    return attention.unflatten(2, (height, width))


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """PSANet's mask: input ``(B, h_mask * w_mask, H, W)``, into ``output``, ``(B, H * W, H, W)``."""
    output.copy_(_psamask(input, psa_type, (h_mask, w_mask), (half_h_mask, half_w_mask)))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Its gradient, into ``grad_input``."""
    options = (psa_type, (h_mask, w_mask), (half_h_mask, half_w_mask))
    grad_input.copy_(gradients(lambda masks: _psamask(masks, *options), grad_output, grad_input)[0])


# Synchronised batch norm on (N, C, positions): between these calls mmcv adds up what the processes have.


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Mean over images and positions, into ``mean``, float32 ``(C,)``."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Mean square distance from ``mean``, into ``var``."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalise into ``norm``, scale and shift into ``output``, and update the running statistics."""
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None or bias is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * (count / (count - 1)) if count > 1 else var
        running_mean.lerp_(mean, float(momentum))
        running_var.lerp_(unbiased, float(momentum))


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Gradients for scale and shift, ``(C,)``."""
    grad_weight.copy_((grad_output.float() * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.float().sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """The gradient for the input, from means of the gradients above over all processes."""
    count = norm.shape[0] * norm.shape[2]
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_(weight[:, None] * (grad_output.float() - common) / std[:, None])
