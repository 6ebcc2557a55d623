"""Position-wise networks between the attention layers."""

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.layers.depthwise import DepthwiseConv
from backbones.layers.kernels import map_images
from backbones.layers.linear import Linear
from backbones.layers.together import gelu_of, is_bare, linear_of


@register_notrace_module
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
        self.fc1 = Linear(dim, hidden_dim, **dd)
        self.fc2 = Linear(hidden_dim, dim, **dd)
        self.hidden_dim = hidden_dim
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        if torch.is_grad_enabled():
            return linear_of(partial(F.gelu, approximate=self.approximate), self.fc2, self.fc1(x))
        return self.fc2(gelu_of(self.fc1, x, self.approximate))


def silu_gate(gate: Tensor, x: Tensor) -> Tensor:
    """SiLU of ``gate``, times ``x``."""
    return F.silu(gate) * x


@register_notrace_module
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
        self.fc2 = Linear(hidden_dim, dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.fc1_g(x), self.fc1_x(x)
        if torch.jit.is_scripting():
            return self.fc2(silu_gate(gate, x))
        if torch.is_grad_enabled():
            return linear_of(silu_gate, self.fc2, gate, x)
        return self.fc2(F.silu(gate, inplace=is_bare(self.fc1_g)).mul_(x))


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
        self.fc1 = Linear(dim, hidden_dim, **dd)
        self.dwconv = DepthwiseConv(hidden_dim, 3, shortcut=shortcut, **dd)
        self.fc2 = Linear(hidden_dim, dim, **dd)
        self.hidden_dim = hidden_dim
        self.act_first = act_first

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            x = self.fc1(x)
            return self.fc2(self.dwconv(F.gelu(x)) if self.act_first else F.gelu(self.dwconv(x)))
        hidden = x.shape[1] * x.shape[2] * self.hidden_dim
        return map_images(self.layers, x, hidden * x.element_size())

    @torch.jit.unused
    def layers(self, x: Tensor) -> Tensor:
        """The three layers in turn."""
        if self.act_first:
            return self.fc2(self.dwconv(gelu_of(self.fc1, x)))
        if torch.is_grad_enabled():
            return linear_of(F.gelu, self.fc2, self.dwconv(self.fc1(x)))
        return self.fc2(gelu_of(self.dwconv, self.fc1(x)))
