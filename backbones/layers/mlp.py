"""Position-wise networks between the attention layers."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.layers.depthwise import DepthwiseConv
from backbones.layers.kernels import map_images
from backbones.layers.linear import Linear


class Mlp(nn.Module):
    """Linear -> GELU -> Linear. x: (..., dim) -> (..., dim)

    Args:
        dim: Channels.
        hidden_dim: Width between the two linear layers.
        approximate: "tanh" for the GELU's approximation by a tanh, "none" for itself.
    """

    def __init__(self, dim: int, hidden_dim: int, approximate: str = "none", device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, gelu=True, approximate=approximate, **dd)
        self.fc2 = Linear(hidden_dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class SwiGLU(nn.Module):
    """Linear -> SiLU, multiplied by a second Linear, -> Linear; no biases (Shazeer, arXiv:2002.05202).

    x: (..., dim) -> (..., dim)

    Args:
        dim: Channels.
        hidden_dim: Width between the linear layers.
    """

    def __init__(self, dim: int, hidden_dim: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1_g = Linear(dim, hidden_dim, bias=False, **dd)  # the gate
        self.fc1_x = Linear(dim, hidden_dim, bias=False, **dd)
        self.act = nn.SiLU()
        self.fc2 = Linear(hidden_dim, dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.act(self.fc1_g(x)), self.fc1_x(x)
        return self.fc2(gate * x if torch.is_grad_enabled() else gate.mul_(x))


@register_notrace_module
class ConvMlp(nn.Module):
    """Linear -> depthwise 3x3 -> GELU -> Linear.

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W; the zero padding of the convolution tells the network positions.

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
        self.fc1 = Linear(dim, hidden_dim, gelu=act_first, **dd)
        self.dwconv = DepthwiseConv(hidden_dim, 3, shortcut=shortcut, gelu=not act_first, **dd)
        self.fc2 = Linear(hidden_dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.layers(x)
        hidden = x.shape[1] * x.shape[2] * self.fc1.out_features
        return map_images(self.layers, x, hidden * x.element_size())

    def layers(self, x: Tensor) -> Tensor:
        """The three layers in turn."""
        return self.fc2(self.dwconv(self.fc1(x)))
