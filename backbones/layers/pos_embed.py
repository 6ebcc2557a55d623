"""Position encodings."""

from torch import Tensor, nn

from backbones.kernels import sequential, shortcut, to_nchw, to_nhwc


class ConvPosEnc(nn.Module):
    """Conditional position encoding: a depthwise 3x3 convolution added to the map (Chu et al., arXiv:2102.10882).

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W. Cost: 9 * dim a pixel.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, to_nchw, shortcut(self.proj), to_nhwc)
