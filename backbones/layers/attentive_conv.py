"""Attentive convolution (Yu et al., "Attentive Convolution", arXiv:2510.20092)."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import dynamic_depthwise, sequential
from backbones.layers.adaptive_pool import adaptive_bins


@register_notrace_module
class AttentiveConv(nn.Module):
    """A depthwise convolution whose kernels are made from the map: one for each sample and channel.

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W. Cost: 2 * N * dim^2 + k^2 * N * dim.

    A channel's kernel comes from its means over k^2 bins of the pixels *in row-major order*: bands of H / k^2 rows, cut
    within a row, that overlap by one pixel where k^2 does not divide N. So rows and columns are not interchangeable,
    and every pixel depends on the whole map: padding it, or cutting it into tiles, gives other kernels. Means are taken
    before the projection ``kernel_proj`` rather than after it, which is the same and needs it for k^2 pixels only.
    A part of its mean is taken from each kernel ("lateral inhibition"): sigmoid(``difference_control``), half at first.

    Args:
        dim: Channels.
        kernel_size: Odd side k of the kernels, in pixels of the map.

    Raises:
        ValueError: If ``kernel_size`` is even.
    """

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is even: an odd kernel has a pixel in its centre")
        self.kernel_size = kernel_size
        self.difference_control = nn.Parameter(torch.zeros(dim, **dd))
        self.kernel_proj = nn.Linear(dim, dim, **dd)
        self.act = nn.GELU()
        self.kernel_gen = nn.Linear(kernel_size**2, kernel_size**2, **dd)
        self.x_proj = nn.Linear(dim, dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def reset_parameters(self) -> None:
        """The projections initialise themselves."""
        nn.init.zeros_(self.difference_control)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of each channel (copies k^2 values of each). x: (B, H, W, dim) -> (B, dim, k, k)"""
        B, H, W, C = x.shape
        means = torch.matmul(adaptive_bins(H * W, self.kernel_size**2, x.device).to(x.dtype), x.reshape(B, H * W, C))
        means = sequential(means, self.kernel_proj, self.act).transpose(1, 2).contiguous()  # (B, dim, k^2)
        kernels = sequential(means, self.kernel_gen)
        inhibition = self.difference_control.sigmoid()[:, None] * kernels  # OpenVINO would scale a mean wrongly
        kernels = kernels - inhibition.mean(-1, keepdim=True)
        return kernels.unflatten(-1, (self.kernel_size, self.kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return sequential(dynamic_depthwise(sequential(x, self.x_proj), self.kernels(x)), self.proj)
