"""Position-wise networks between the attention layers."""

from torch import Tensor, nn

from backbones.layers.depthwise import DepthwiseConv
from backbones.layers.linear import Linear


class ConvMlp(nn.Module):
    """Linear -> depthwise 3x3 -> GELU -> Linear: the convolution before the activation, without a shortcut.

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W; the zero padding of the convolution tells the network positions.

    Args:
        dim: Channels.
        hidden_dim: Width between the two linear layers.
    """

    def __init__(self, dim: int, hidden_dim: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, **dd)
        self.dwconv = DepthwiseConv(hidden_dim, 3, **dd)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))
