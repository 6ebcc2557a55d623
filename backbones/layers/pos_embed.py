"""Position encodings."""

from torch import Tensor, nn

from backbones.layers.depthwise import DepthwiseConv


class ConvPosEnc(nn.Module):
    """Conditional position encoding: a depthwise 3x3 convolution added to the map (Chu et al., arXiv:2102.10882).

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.proj = DepthwiseConv(dim, 3, shortcut=True, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)
