"""Depthwise convolution whose kernels are made from the sample that it convolves."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dynamic_depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution with a kernel for each sample and channel, zero-padded by half of its odd side.

    The samples become channels of one image, whose pixels are re-laid for it (not for a single sample). In a traced
    program the kernel offsets are added up one by one instead: the batch would become a part of the weights' shape.

    x: (B, H, W, C), weight: (B, C, k, k) -> (B, H, W, C)
    """
    B, H, W, C = x.shape
    side = weight.shape[-1]
    half = side // 2
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or B == 0:  # there is no convolution of 0 groups
        x = F.pad(x, (0, 0, half, half, half, half))
        offsets = [(i, j) for i in range(side) for j in range(side)]
        return sum(x[:, i : i + H, j : j + W] * weight[:, None, None, :, i, j] for i, j in offsets)
    x = x.permute(1, 2, 0, 3).reshape(1, H, W, B * C).permute(0, 3, 1, 2)
    x = F.conv2d(x, weight.reshape(B * C, 1, side, side).to(x.dtype), padding=half, groups=B * C)
    return x.permute(0, 2, 3, 1).view(H, W, B, C).permute(2, 0, 1, 3).contiguous()
