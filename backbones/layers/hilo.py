"""HiLo attention (Pan et al., "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, section 3)."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc
from backbones.layers.attention import attend
from backbones.layers.window import crop, pad_to_multiple, window_partition, window_unpartition


@register_notrace_module
class HiLoAttention(nn.Module):
    """Some heads attend inside small windows (Hi-Fi), the others to average-pooled keys and values (Lo-Fi).

    x: (B, H, W, C) -> (B, H, W, C). Any H and W: padded with zeros to multiples of ``window_size``, and the padding
    is seen by both branches, as in the published dense prediction code. Cost: N * ws^2 * C for Hi-Fi, N^2 / ws^2 * C
    for Lo-Fi, beside the projections. The two outputs are concatenated; no projection mixes them.

    Args:
        dim: Channels.
        num_heads: Heads of both branches together.
        window_size: Side of the windows, and of the pooling, in pixels of the map. With 1 there is nothing to pool and
            no window: all heads are Lo-Fi, which is plain attention.
        alpha: Fraction of the heads that are Lo-Fi, rounded down.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads`` or ``alpha`` is outside 0 to 1.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int = 2, alpha: float = 0.9, device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha is the Lo-Fi fraction of the heads, from 0 to 1; got {alpha}")
        head_dim = dim // num_heads
        self.window_size = window_size
        self.lo_heads = num_heads if window_size == 1 else int(num_heads * alpha)
        self.hi_heads = num_heads - self.lo_heads
        self.lo_dim = self.lo_heads * head_dim
        self.hi_dim = self.hi_heads * head_dim

        if self.lo_heads > 0:
            self.l_q = nn.Linear(dim, self.lo_dim, **dd)
            self.l_kv = nn.Linear(dim, 2 * self.lo_dim, **dd)
            self.l_proj = nn.Linear(self.lo_dim, self.lo_dim, **dd)
        else:
            self.l_q = self.l_kv = self.l_proj = nn.Identity()
        if self.hi_heads > 0:
            self.h_qkv = nn.Linear(dim, 3 * self.hi_dim, **dd)
            self.h_proj = nn.Linear(self.hi_dim, self.hi_dim, **dd)
        else:
            self.h_qkv = self.h_proj = nn.Identity()

    def hifi(self, x: Tensor) -> Tensor:
        """Attention inside windows. x: (B, H, W, C) -> (B, H, W, hi_dim)"""
        _, H, W, _ = x.shape
        q, k, v = window_partition(sequential(x, self.h_qkv), self.window_size).chunk(
            3, dim=-1
        )  # (B * nW, ws * ws, hi_dim)
        x = window_unpartition(attend(q, k, v, self.hi_heads), self.window_size, H, W)
        return sequential(x, self.h_proj)

    def lofi(self, x: Tensor) -> Tensor:
        """Attention of every pixel to pooled ones. x: (B, H, W, C) -> (B, H, W, lo_dim)"""
        B, H, W, _ = x.shape
        q = sequential(x, self.l_q).flatten(1, 2)  # (B, H * W, lo_dim)
        if self.window_size > 1:
            x = to_nhwc(F.avg_pool2d(to_nchw(x), self.window_size))
        k, v = sequential(x, self.l_kv).flatten(1, 2).chunk(2, dim=-1)  # (B, H * W / ws^2, lo_dim)
        x = attend(q, k, v, self.lo_heads).view(B, H, W, self.lo_dim)
        return sequential(x, self.l_proj)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        x = pad_to_multiple(x, self.window_size)
        if self.hi_heads == 0:
            x = self.lofi(x)
        elif self.lo_heads == 0:
            x = self.hifi(x)
        else:
            x = torch.cat([self.hifi(x), self.lofi(x)], dim=-1)
        return crop(x, H, W)
