"""Pooling of regions: RoIAlign, RoIPool, deformable RoIPool.

Maps are ``(B, C, H, W)`` in any memory format; regions ``(K, 5)``, image index, x1, y1, x2, y2 in pixels of the image;
results ``(K, C, height, width)``.
"""

import math
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from ._types import gradients, widen

__all__ = [
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
]


def _check(rois: Tensor, batch: int, aligned: bool) -> None:
    """Refuse what would read beyond the maps. On a GPU nobody looks, as that would wait for it."""
    if rois.device.type != "cpu" or not len(rois):
        return
    if not rois.isfinite().all():
        row = int((~rois.isfinite()).any(1).nonzero()[0, 0])
        raise ValueError(
            f"RoIAlign: region {row} is {rois[row].tolist()}: coordinates must be finite (look for a loss that is NaN)"
        )
    first, last = rois[:, 0].aminmax()
    if first < 0 or last >= batch:
        raise ValueError(f"RoIAlign: regions name images {int(first)} to {int(last)} of a batch of {batch}")
    negative = (rois[:, 3:] < rois[:, 1:3]).any(1)
    if aligned and negative.any():
        row = int(negative.nonzero()[0, 0])
        raise ValueError(f"RoIAlign: region {row} is {rois[row].tolist()}: x2 >= x1 and y2 >= y1 must hold")


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Mean (``pool_mode`` 1) or maximum (0) of bilinear samples in each bin of each region, into ``output``.

    Without ``aligned``, regions start half a pixel later and none is smaller than one pixel of the map, negative sizes
    included. For the maximum, ``argmax_y`` and ``argmax_x`` receive the sample's row and column in its bin, where the
    compiled one puts places on the map, which half types round.

    Raises:
        ValueError: a region on a CPU is not finite, names an image that is not there, or (aligned) has a negative size.
    """
    _check(rois, len(input), aligned)
    if not output.numel():
        return
    maps, rois = widen(input, rois)
    rois = rois.to(maps.dtype)
    size = (aligned_height, aligned_width)
    if pool_mode == 1:
        output.copy_(torchvision.ops.roi_align(maps, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    for k, (roi, start, bins) in enumerate(zip(rois, *_starts(rois, size, spatial_scale, aligned))):
        y, x = _sample_places(start, bins, size, sampling_ratio)
        if not y.numel():
            continue
        best, index = _sample(maps[int(roi[0])], y, x).flatten(2).max(-1)  # (C, bins)
        output[k] = best.view(output.shape[1:])
        argmax_y[k] = (index // x.shape[2]).view(output.shape[1:])
        argmax_x[k] = (index % x.shape[2]).view(output.shape[1:])


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient for the maps, into ``grad_input``."""
    if not grad_output.numel():
        return
    grad, rois = widen(grad_output, rois)
    rois, size = rois.to(grad.dtype), (aligned_height, aligned_width)
    batch, channels, height, width = grad_input.shape
    if pool_mode == 1:
        # torchvision has no public name for it; through autograd of roi_align it would cost a forward pass more.
        result = torch.ops.torchvision._roi_align_backward(
            grad,
            rois,
            spatial_scale,
            *size,
            batch,
            channels,
            height,
            width,
            sampling_ratio,
            aligned,
        )
        grad_input.copy_(result)
        return
    result = grad.new_zeros(batch, channels, height * width)
    for k, (roi, start, bins) in enumerate(zip(rois, *_starts(rois, size, spatial_scale, aligned))):
        y, x = _sample_places(start, bins, size, sampling_ratio)
        if not y.numel():
            continue
        index = (argmax_y[k].long() * x.shape[2] + argmax_x[k].long()).flatten(1)[..., None]  # (C, bins, 1)
        places = [axis.flatten(1).expand(channels, -1, -1).gather(2, index)[..., 0] for axis in (y, x)]
        for corner, weight in zip(*_corners(places[0], places[1], height, width)):
            result[int(roi[0])].scatter_add_(1, corner, weight * grad[k].flatten(1))
    grad_input.copy_(result.view(grad_input.shape))


def _starts(rois: Tensor, size: tuple[int, int], scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Upper left corners of regions and sizes of their bins on the map, ``(K, 2)`` each, as x and y."""
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    return start, extent / extent.new_tensor(size[::-1])


def _sample_places(start: Tensor, bins: Tensor, size: tuple[int, int], ratio: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of one region's samples, ``(height * width, samples down a bin, samples across)`` each."""
    places = []
    for axis, count in ((1, size[0]), (0, size[1])):
        grid = ratio if ratio > 0 else math.ceil(bins[axis])
        index = torch.arange(count, device=bins.device)[:, None] * bins[axis]
        within = (torch.arange(grid, device=bins.device) + 0.5).to(bins.dtype) * bins[axis] / max(grid, 1)
        places.append(start[axis] + index + within)  # (count, grid)
    y, x = places
    shape = (len(y), len(x), y.shape[1], x.shape[1])
    return y[:, None, :, None].expand(shape).flatten(0, 1), x[None, :, None, :].expand(shape).flatten(0, 1)


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """The four pixels around each place, as flat indices, and their weights.

    A place up to one pixel outside takes the value at the border, one further outside has no weight.
    """
    inside = ((y >= -1) & (y <= height) & (x >= -1) & (x <= width)).to(y.dtype)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().long(), x.detach().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, along = y - top, x - left
    indices = [row * width + column for row in (top, bottom) for column in (left, right)]
    weights = [a * b * inside for a in (1 - down, down) for b in (1 - along, along)]
    return indices, weights


def _sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``(C, H, W)`` at places of any shape: ``(C, *shape)``."""
    flat = image.flatten(1)
    indices, weights = _corners(y, x, *image.shape[1:])
    return sum(weight * flat[:, index] for index, weight in zip(indices, weights))


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """RoIAlign whose bins move by ``gamma`` times the region's size times ``offset``, into ``output``.

    ``offset`` is ``(K, 2, pooled_height, pooled_width)``, x first, or empty for no movement.
    """
    _check(rois, len(input), aligned=True)
    if output.numel():
        pool = _deform_roi_pool_of(rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
        output.copy_(pool(*widen(input, offset)))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Gradients for maps and offsets, into ``grad_input`` and ``grad_offset``.

    Samples beyond the border get the true gradient, which is 0; the CUDA kernel continues the slope inside.
    """
    if not grad_output.numel():
        return
    pool = _deform_roi_pool_of(rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    grad, *inputs = widen(grad_output, input, *([offset] if offset.numel() else []))
    results = gradients(pool, grad, *inputs)
    for target, result in zip((grad_input, grad_offset), results):
        target.copy_(result)


def _deform_roi_pool_of(
    rois: Tensor, size: tuple[int, int], scale: float, ratio: int, gamma: float
) -> Callable[..., Tensor]:
    """Deformable RoIPool of these regions, as a function of maps and offsets."""

    def pool(maps: Tensor, offset: Tensor | None = None) -> Tensor:
        pooled = []
        boxes = rois.to(maps.dtype)
        for k, (image, start, bins) in enumerate(zip(rois[:, 0].long(), *_starts(boxes, size, scale, aligned=True))):
            y, x = _sample_places(start, bins, size, ratio)
            if offset is not None and offset.numel():
                move_x, move_y = (gamma * bins * bins.new_tensor(size[::-1]))[:, None] * offset[k].flatten(1)
                y, x = y + move_y[:, None, None], x + move_x[:, None, None]
            samples = _sample(maps[image], y, x).flatten(2)  # (C, bins, samples a bin)
            pooled.append((samples.sum(-1) / max(samples.shape[2], 1)).view(-1, *size))
        return torch.stack(pooled)

    return pool


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum of the pixels in each bin, into ``output``; their flat indices, or -1 in an empty bin, into ``argmax``.

    Regions include their last pixel and are not rounded; a bin includes every pixel that it touches.
    """
    _check(rois, len(input), aligned=False)
    argmax.fill_(-1)
    maps, rois = widen(input, rois)
    height, width = maps.shape[2:]
    start = rois[:, 1:3] * spatial_scale
    bins = ((rois[:, 3:] + 1) * spatial_scale - start) / rois.new_tensor([pooled_width, pooled_height])
    edges = []
    for axis, (count, limit) in enumerate(((pooled_width, width), (pooled_height, height))):
        index = torch.arange(count + 1, device=rois.device)
        edge = index * bins[:, axis, None] + start[:, axis, None]  # (K, count + 1)
        lower, upper = edge[:, :-1].floor(), edge[:, 1:].ceil()
        edges.append([side.clamp(0, limit).long().tolist() for side in (lower, upper)])
    (lefts, rights), (tops, bottoms) = edges
    for k, image in enumerate(rois[:, 0].long().tolist()):
        if (bins[k] <= 0).any():
            continue
        for row, (top, bottom) in enumerate(zip(tops[k], bottoms[k])):
            for column, (left, right) in enumerate(zip(lefts[k], rights[k])):
                if bottom > top and right > left:
                    best, index = maps[image, :, top:bottom, left:right].flatten(1).max(1)
                    output[k, :, row, column] = best
                    span = right - left
                    argmax[k, :, row, column] = (index // span + top) * width + index % span + left


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """The gradient of each maximum, added where it was found, into ``grad_input``."""
    (grad,) = widen(grad_output)
    result = grad.new_zeros(*grad_input.shape[:2], grad_input.shape[2] * grad_input.shape[3])
    for k, image in enumerate(rois[:, 0].long().tolist()):
        index = argmax[k].flatten(1).long()
        result[image].scatter_add_(1, index.clamp(min=0), grad[k].flatten(1) * (index >= 0))
    grad_input.copy_(result.view(grad_input.shape))
