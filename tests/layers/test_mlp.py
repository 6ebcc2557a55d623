"""Position-wise networks against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from backbones.kernels import set_fast_kernels
from backbones.layers import ConvMlp, Mlp


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("shape", [(2, 9, 8, 6), (2, 80, 6), (3, 6)], ids=str)
def test_mlp(shape: tuple[int, ...], fast: bool, grad: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    set_fast_kernels(fast)
    mlp, x = Mlp(6, 10), torch.randn(shape)
    hidden = F.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("act_first", [True, False])
@pytest.mark.parametrize("shortcut", [True, False])
def test_conv_mlp(shortcut: bool, act_first: bool, fast: bool, grad: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    set_fast_kernels(fast)
    mlp, x = ConvMlp(6, 16, shortcut=shortcut, act_first=act_first), torch.randn(2, 9, 8, 6)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    hidden = F.gelu(hidden) if act_first else hidden
    y = F.conv2d(hidden.permute(0, 3, 1, 2), mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=16)
    y = y.permute(0, 2, 3, 1) + (hidden if shortcut else 0)
    y = y if act_first else F.gelu(y)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mlp(x), y @ mlp.fc2.weight.T + mlp.fc2.bias)


def test_conv_mlp_of_many_images(fast_kernels: None) -> None:
    """In inference a large batch is run in pieces."""
    torch.manual_seed(0)
    mlp, x = ConvMlp(16, 128), torch.randn(5, 100, 100, 16)  # 5 MB of hidden values an image
    with torch.no_grad():
        pieces = mlp(x)
        torch.testing.assert_close(pieces, torch.cat([mlp(image[None]) for image in x]))
    torch.testing.assert_close(mlp(x).detach(), pieces)
