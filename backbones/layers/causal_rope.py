"""Causal attention with rotary positions and a soft mask, of iLLaMA (Wang et al., arXiv:2404.06773)."""

from functools import partial

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import by_images, sequential
from backbones.layers.attention import merge_heads
from backbones.layers.rope import rotate


@register_notrace_module
class CausalRopeAttention(nn.Module):
    """Softmax over all tokens, of which each token then keeps the part of those before it and its own.

    x: (B, N, dim), rope: (N, dim / num_heads / 2, 2) of ``rotary_table`` -> (B, N, dim). Any N. The tokens are the
    patches in raster order, row by row; what is to see the whole image (the class token) stands last. Cost: N^2 * dim
    twice, beside the projections.

    The mask S = a + (1 - a) tril(1) multiplies the softmax. At rate a = 0 that is y_i = sum_{j <= i} e^(s_ij) v_j /
    sum_j e^(s_ij): the denominator holds later tokens too, so neither an additive mask nor ``is_causal`` gives it, and
    later tokens do act on earlier ones. A fused kernel needs two passes, the causal product and the full denominator
    (y = causal attention * exp(LSE_causal - LSE_full)), and on a CPU takes longer than the explicit form.

    Source: arXiv:2404.06773, in the form of the released code (one equation of the paper prints the additive mask).

    Args:
        dim: Channels.
        num_heads: Heads; their width must be even.

    Attributes:
        soft_mask_rate: a, from 0 (causal, the default) to 1 (bidirectional attention).

    Raises:
        ValueError: If ``dim`` is not a multiple of twice ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim {dim} is not a multiple of 2 * num_heads = {2 * num_heads}: heads rotate pairs")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.soft_mask_rate = 0.0
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        qkv = sequential(x, self.qkv)
        # The attention map and what it was before the softmax, and queries and keys, rotated and apart.
        entries = 2 * self.num_heads * x.shape[1] ** 2 + 4 * x.shape[1] * x.shape[2]
        x = by_images(partial(self.mix, rope=rope), qkv, entries * x.element_size())
        return sequential(x, self.proj)

    def mix(self, qkv: Tensor, rope: Tensor) -> Tensor:
        """What stands between the projections: (B, N, 3 * dim) -> (B, N, dim)."""
        B, N, _ = qkv.shape
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, nh, d)
        q, k = rotate(qkv[:, :, :2], rope).transpose(1, 3).unbind(2)  # (B, nh, N, d)
        q, k = q.flatten(0, 1), k.flatten(0, 1)
        attn = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=self.scale).softmax(dim=-1)
        rate = float(self.soft_mask_rate)
        mask = torch.ones(N, N, device=attn.device, dtype=attn.dtype).tril() * (1.0 - rate) + rate
        return merge_heads((attn * mask).unflatten(0, (B, self.num_heads)) @ qkv[:, :, 2].transpose(1, 2))
