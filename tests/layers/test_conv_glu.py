"""The gated MLP against its formula."""

import pytest
import torch
import torch.nn.functional as F

from backbones.layers import ConvGLU


@pytest.mark.parametrize("norm", [False, True])
def test_equals_its_formula(norm: bool) -> None:
    torch.manual_seed(0)
    mlp, x = ConvGLU(6, 10, norm), torch.randn(2, 5, 7, 6)
    if norm:
        torch.nn.init.normal_(mlp.norm.weight)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    gate = F.conv2d(hidden[..., :10].permute(0, 3, 1, 2), mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=10)
    hidden = F.gelu(gate).permute(0, 2, 3, 1) * hidden[..., 10:]
    if norm:
        hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mlp.norm.weight
    torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)
