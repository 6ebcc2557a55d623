"""Gated MLP with a depthwise convolution (Shi, "TransNeXt", arXiv:2311.17132, section 3.4)."""

from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import glu, sequential, to_nchw, to_nhwc


@register_notrace_module
class ConvGLU(nn.Module):
    """Linear -> two halves; the first goes through a depthwise 3x3 and GELU and multiplies the second; -> Linear.

    x: (B, H, W, dim) -> (B, H, W, dim). Any H and W; the zero padding of the convolution tells the network positions.
    Cost: (3 * dim + 9) * hidden_dim a pixel.

    Args:
        dim: Channels.
        hidden_dim: Width of a half.
        norm: RMSNorm (eps 1e-6) before the last layer.
    """

    def __init__(self, dim: int, hidden_dim: int, norm: bool = False, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim, **dd)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim, **dd)
        self.act = nn.GELU()
        self.norm = nn.RMSNorm(hidden_dim, eps=1e-6, **dd) if norm else nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        gates = glu(to_nchw, self.dwconv, to_nhwc, self.act)
        return sequential(x, self.fc1, gates, self.norm, self.fc2)
