"""Channel group attention (Ding et al., "DaViT: Dual Attention Vision Transformers", arXiv:2204.03645, section 3.3)."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import matmul, sequential


@register_notrace_module
class ChannelGroupAttention(nn.Module):
    """Self-attention in which the channels of a group are the tokens and all pixels are their features.

    x: (B, H, W, C) -> (B, H, W, C). Any H and W. Within each of the groups softmax(q k^T / sqrt(d)) v, where q, k and v
    are (d, N). Cost: N * C * d twice, beside the projections: linear in pixels.

    The logits are sums over all pixels but their scale is fixed, so they grow with the size of the map.
    The rows of ``qkv`` are [v | q | k] in the terms of the formula, as in the published weights (the authors' code
    calls these slices q, k, v, and lets the second attend to the third).

    Args:
        dim: Channels.
        num_groups: Groups of d = dim / num_groups channels.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_groups``.
    """

    def __init__(self, dim: int, num_groups: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_groups:
            raise ValueError(f"dim {dim} is not a multiple of num_groups {num_groups}")
        self.num_groups = num_groups
        self.scale = (dim // num_groups) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        d = C // self.num_groups
        qkv = sequential(x, self.qkv).view(B, H * W, 3 * C)
        v, *qk = qkv.split([C] + [d] * (2 * self.num_groups), dim=-1)
        groups = zip(qk[: self.num_groups], qk[self.num_groups :])
        # One product a group: a batched product over images and groups would first copy both operands.
        attn = torch.stack([torch.bmm(q.transpose(1, 2), k) for q, k in groups], dim=1)  # (B, groups, d, d)
        attn = (attn * self.scale).softmax(dim=-1)
        return sequential(v, matmul(attn.transpose(-2, -1)), self.proj).view(B, H, W, C)
