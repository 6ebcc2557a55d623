"""Suppression of overlapping boxes, after ``mmcv/ops/csrc/pytorch/cpu/nms.cpp`` in behaviour.

Boxes are ``(N, 4)`` as x1, y1, x2, y2; ``offset`` 1 means that a box from 0 to 9 is ten pixels wide. Boxes of one score
come in their order in the input (compiled mmcv sorts unstably and gives some order).
"""

import torch
import torchvision
from torch import Tensor

from ._types import as_computed, widen

__all__ = ["bbox_overlaps", "nms", "nms_match", "softnms"]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than ``iou_threshold``, best first: ``(K,)``, int64."""
    boxes, scores = widen(boxes, scores)
    threshold = as_computed(iou_threshold, boxes.dtype)
    return torchvision.ops.nms(boxes + boxes.new_tensor([0, 0, offset, offset]), scores, threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapping boxes instead of dropping them.

    Args:
        boxes, scores: ``(N, 4)`` and ``(N,)``.
        dets: ``(N, 5)``; its first K rows are overwritten with boxes and their new scores, best first.
        iou_threshold: overlap from which methods 0 and 1 act.
        sigma: width of method 2.
        min_score: boxes whose score falls below are dropped.
        method: 0 drops, 1 multiplies by ``1 - IoU``, 2 by ``exp(-IoU^2 / sigma)``.
        offset: 0 or 1.

    Returns:
        Indices ``(K,)`` of the boxes kept.
    """
    rows = torch.cat([*widen(boxes, scores[:, None])], dim=1)
    indices = torch.arange(len(rows))
    threshold, i = as_computed(iou_threshold, rows.dtype), 0
    while i < len(rows):
        best = i + int(rows[i:, 4].argmax())
        for items in (rows, indices):  # the swap decides which of several equal scores is next, hence not a sort
            first = items[i].clone()
            items[i] = items[best]
            items[best] = first
        rest = rows[i + 1 :]
        iou = _iou(rows[i, :4], rest[:, :4], offset)
        if method == 2:
            # In float64 and rounded once: vectorised exponentials in float32 differ between CPUs.
            weight = torch.exp((-(iou * iou) / sigma).double()).to(iou.dtype)
        else:
            weight = torch.where(iou >= threshold, 1 - iou if method == 1 else torch.zeros_like(iou), 1.0)
        rest[:, 4] *= weight
        dropped = rest[:, 4] < min_score
        if dropped.any():
            rows, indices = (
                torch.cat([items[: i + 1], _close_gaps(items[i + 1 :], dropped)]) for items in (rows, indices)
            )
        i += 1
    dets[: len(rows)] = rows
    return indices


def _close_gaps(items: Tensor, dropped: Tensor) -> Tensor:
    """What remains of ``items`` where every gap is filled from the end, the last one first."""
    size = int((~dropped).sum())
    head, gaps = items[:size].clone(), dropped[:size]
    head[gaps] = items[size:][~dropped[size:]].flip(0)
    return head


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes that suppression would merge.

    Args:
        dets: ``(N, 5)``, boxes and scores.
        iou_threshold: overlap from which (not only above which) a box joins the group of a better one.

    Returns:
        One list of indices for each box kept, itself first, best first.
    """
    (dets,) = widen(dets)
    threshold = as_computed(iou_threshold, dets.dtype)
    order = dets[:, 4].sort(descending=True, stable=True).indices
    boxes = dets[order, :4]
    groups = []
    while len(order):
        joins = _iou(boxes[0], boxes) >= threshold
        joins[0] = True  # also where its area, and so its overlap with itself, is 0 / 0
        groups.append(order[joins].tolist())
        order, boxes = order[~joins], boxes[~joins]
    return groups


def bbox_overlaps(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write the overlap of all pairs, or of pairs in line, into ``ious``.

    Args:
        boxes1, boxes2: ``(M, 4)`` and ``(N, 4)``.
        ious: ``(M, N)``, or ``(M,)`` if aligned.
        mode: 0 divides the intersection by the union, 1 by the area of the first box.
        aligned: compare row by row.
        offset: 0 or 1.
    """
    first, second = widen(boxes1, boxes2)
    ious.copy_(_iou(first if aligned else first[:, None], second, offset, first_only=mode == 1))


def _iou(first: Tensor, second: Tensor, offset: int = 0, first_only: bool = False) -> Tensor:
    corner = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (corner - torch.maximum(first[..., :2], second[..., :2]) + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if not first_only:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - intersection
    return intersection / area
