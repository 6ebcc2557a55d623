"""Fused attention, whose backward pass in bfloat16 is slow on a CPU for short sequences."""

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels.machine import compute_dtype, in_float32, use_fast_path

_LOGITS = 2**16  # of a head: up to here float32 is faster, by five times for windows of 7 x 7


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    In bfloat16 with gradients, heads of few logits are computed in float32: the fused kernel's backward pass takes
    blocks of a fixed size, which windows leave almost empty.

    q: (B, nh, N, d), k: (B, nh, M, d), v: (B, nh, M, d_v), bias: (B, nh, N, M) -> (B, nh, N, d_v)
    """
    if bias is None and torch.is_grad_enabled() and use_fast_path(q, k, v) and _is_slow(q, k, v):
        return in_float32(F.scaled_dot_product_attention, q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _is_slow(q: Tensor, k: Tensor, v: Tensor) -> bool:
    trains = q.requires_grad or k.requires_grad or v.requires_grad
    return trains and compute_dtype(q) == torch.bfloat16 and q.shape[2] * k.shape[2] <= _LOGITS
