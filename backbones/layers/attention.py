"""The single call to fused attention, and the split into heads around it."""

from torch import Tensor

from backbones.kernels import fused_attention


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """View (B, N, nh * d) as (B, nh, N, d)."""
    B, N, C = x.shape
    return x.view(B, N, num_heads, C // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Inverse of ``split_heads``: (B, nh, N, d) -> (B, N, nh * d); copies unless a kernel already stored it so."""
    return x.transpose(1, 2).flatten(2)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of heads that are already apart.

    q: (B, nh, N, d), k: (B, nh, M, d), v: (B, nh, M, d_v), bias: (B, nh, N, M) -> (B, nh, N, d_v)
    """
    return fused_attention(q, k, v, bias)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Multi-head softmax(q k^T / sqrt(d) + bias) v.

    q: (B, N, nh * d), k: (B, M, nh * d), v: (B, M, nh * d_v), bias: None or broadcastable to (B, nh, N, M)
    -> (B, N, nh * d_v). Cost N * M * C twice.
    """
    q, k, v = split_heads(q, num_heads), split_heads(k, num_heads), split_heads(v, num_heads)
    return merge_heads(attend_heads(q, k, v, bias))
