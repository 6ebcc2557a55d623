"""Position-wise networks between the attention layers."""

from torch import Tensor, nn

from backbones.kernels import gated, sequential, shortcut, to_nchw, to_nhwc


class Mlp(nn.Module):
    """Linear -> GELU -> Linear (Vaswani et al., arXiv:1706.03762).

    x: (..., dim) -> (..., dim). Cost: 2 * dim * hidden_dim a position.

    Args:
        dim: Channels.
        hidden_dim: Width between the two linear layers.
        approximate: "tanh" for the GELU's approximation by a tanh, "none" for itself.
    """

    def __init__(self, dim: int, hidden_dim: int, approximate: str = "none", device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, **dd)
        self.act = nn.GELU(approximate)
        self.fc2 = nn.Linear(hidden_dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential(x, self.fc1, self.act, self.fc2)


class SwiGLU(nn.Module):
    """Linear -> SiLU, multiplied by a second Linear, -> Linear; no biases (Shazeer, arXiv:2002.05202).

    x: (..., dim) -> (..., dim). Cost: 3 * dim * hidden_dim a position.

    Args:
        dim: Channels.
        hidden_dim: Width between the linear layers.
    """

    def __init__(self, dim: int, hidden_dim: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1_g = nn.Linear(dim, hidden_dim, bias=False, **dd)  # the gate
        self.fc1_x = nn.Linear(dim, hidden_dim, bias=False, **dd)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(hidden_dim, dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return sequential((sequential(x, self.fc1_g), sequential(x, self.fc1_x)), gated(self.act), self.fc2)


class ConvMlp(nn.Module):
    """Linear -> depthwise 3x3 -> GELU -> Linear (Wang et al., "PVT v2", arXiv:2106.13797).

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W; the zero padding of the convolution tells the network positions.
    Cost: (2 * dim + 9) * hidden_dim a pixel.

    Args:
        dim: Channels.
        hidden_dim: Width between the two linear layers.
        shortcut: Add the input of the depthwise convolution to its output.
        act_first: Put the activation before the depthwise convolution instead of after it.
    """

    def __init__(
        self, dim: int, hidden_dim: int, shortcut: bool = False, act_first: bool = False, device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, **dd)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim, **dd)
        self.shortcut = shortcut
        self.act_first = act_first

    def forward(self, x: Tensor) -> Tensor:
        conv = to_nchw, shortcut(self.dwconv) if self.shortcut else self.dwconv, to_nhwc
        hidden = (self.act, *conv) if self.act_first else (*conv, self.act)
        return sequential(x, self.fc1, *hidden, self.fc2)
