"""Strided convolutions that make a map from an image or a smaller map from a larger one."""

from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc
from backbones.layers.window import pad_to_multiple


class PatchEmbed(nn.Module):
    """Strided convolution with an optional norm before or after it (Dosovitskiy et al., arXiv:2010.11929).

    x: (B, H, W, in_chans) -> (B, H', W', dim), with H' = ceil(H / stride) when ``pad`` is set or the kernel overlaps
    (odd ``kernel_size`` > stride, padded by half of it), otherwise floor.
    Cost: kernel_size^2 * in_chans * dim a pixel of the result.

    Args:
        in_chans: Channels in.
        dim: Channels out.
        kernel_size: Side of the kernel, in pixels of the incoming map.
        stride: Pixels between outputs.
        padding: Zero padding of the convolution on each side.
        bias: Whether the convolution has a bias.
        pad: Pad the incoming map with zeros at the bottom and right to a multiple of ``stride`` first.
        pre_norm: Module on the last dimension, before padding and convolution.
        post_norm: Module on the result; a BatchNorm2d gets the channels-first view.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        bias: bool = True,
        pad: bool = False,
        pre_norm: nn.Module | None = None,
        post_norm: nn.Module | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.multiple = stride if pad else 1
        self.pre_norm = nn.Identity() if pre_norm is None else pre_norm
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, padding, bias=bias, device=device, dtype=dtype)
        self.channels_first_norm = isinstance(post_norm, nn.BatchNorm2d)
        self.norm = nn.Identity() if post_norm is None else post_norm

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(self.pre_norm(x), self.multiple)
        after = (self.norm, to_nhwc) if self.channels_first_norm else (to_nhwc, self.norm)
        return sequential(x, to_nchw, self.proj, *after)
