"""The gated MLP."""

import torch

from backbones.layers import SwiGLU


def test_equals_its_formula_and_has_no_biases() -> None:
    torch.manual_seed(0)
    layer = SwiGLU(6, 10)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "fc1_g.weight": (10, 6),
        "fc1_x.weight": (10, 6),
        "fc2.weight": (6, 10),
    }
    x = torch.randn(2, 3, 6)
    gate, up = x @ layer.fc1_g.weight.T, x @ layer.fc1_x.weight.T
    torch.testing.assert_close(layer(x), (gate * torch.sigmoid(gate) * up) @ layer.fc2.weight.T)
