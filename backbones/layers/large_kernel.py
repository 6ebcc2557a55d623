"""Large-kernel attention (Guo et al., "Visual Attention Network", arXiv:2202.09741, section 3.1)."""

from torch import Tensor, nn

from backbones.kernels import sequential, to_nchw, to_nhwc


class LargeKernelAttention(nn.Module):
    """Multiplies each pixel by a 21x21 convolution around it, factored into two depthwise ones and a 1x1.

    x: (B, H, W, C) -> (B, H, W, C). Any H and W. Cost: (25 + 49 + C) * C a pixel. There is no softmax and no sigmoid.

    The depthwise 5x5 followed by a depthwise 7x7 of dilation 3 reaches 5 + 3 * (7 - 1) = 23 pixels, of which the paper
    counts K = 21.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.local = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **dd)
        self.dilated = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim, **dd)
        self.mix = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return x * sequential(x, to_nchw, self.local, self.dilated, to_nhwc, self.mix)
