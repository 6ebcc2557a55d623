"""Position-wise networks between the attention layers."""

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.layers.depthwise import DepthwiseConv
from backbones.layers.kernels import map_images
from backbones.layers.linear import Linear, linear
from backbones.layers.together import gelu_name, gelu_of, is_bare, is_remade, linear_of


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
        return self.layers(x)

    @torch.jit.unused
    def layers(self, x: Tensor) -> Tensor:
        """The two layers in turn."""
        if is_bare(self.fc1) and is_remade(x, self.hidden_dim):
            hidden = partial(linear, act=gelu_name(self.approximate))
            return linear_of(hidden, self.fc2, x, params=(self.fc1.weight, self.fc1.bias))
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
        fc1, dwconv = self.fc1, self.dwconv
        if is_bare(fc1) and is_bare(dwconv) and is_remade(x, self.hidden_dim):
            params = fc1.weight, fc1.bias, dwconv.weight, dwconv.bias
            return linear_of(self.hidden, self.fc2, x, params=params, images=True)
        if self.act_first:
            return self.fc2(dwconv(gelu_of(fc1, x)))
        if torch.is_grad_enabled():
            return linear_of(F.gelu, self.fc2, dwconv(fc1(x)))
        return self.fc2(gelu_of(dwconv, fc1(x)))

    @torch.jit.unused
    def hidden(self, x: Tensor, fc1: Tensor, fc1_bias: Tensor, dwconv: Tensor, dwconv_bias: Tensor) -> Tensor:
        """What enters the last layer, with the parameters of the first two."""
        first, then = ("gelu", "none") if self.act_first else ("none", "gelu")
        return self.dwconv.convolve(linear(x, fc1, fc1_bias, first), dwconv, dwconv_bias, then)
