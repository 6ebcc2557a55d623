"""The package's linear layer against the formula, on every path."""

import pytest
import torch
import torch.nn.functional as F

from backbones.layers import Linear, gelu_of, linear, set_fast_kernels
from backbones.layers.kernels import use_fast_kernels


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 9, 11, 24), (2, 70, 24), (300, 24), (3, 24), (24,)], ids=str)
def test_equals_its_formula(shape: tuple[int, ...], bias: bool, gelu: bool, grad: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    expected = torch.einsum("...i,oi->...o", x, layer.weight) + (layer.bias if bias else 0)
    expected = F.gelu(expected) if gelu else expected
    for fast in (True, False):
        set_fast_kernels(fast)
        with torch.set_grad_enabled(grad):
            y = gelu_of(layer, x) if gelu else layer(x)
            torch.testing.assert_close(y, expected, check_stride=False)


def test_gradients_are_those_of_torch(fast_kernels: None) -> None:
    torch.manual_seed(0)
    ours, plain = Linear(24, 40), torch.nn.Linear(24, 40)
    plain.load_state_dict(ours.state_dict())
    x, y = torch.randn(2, 2, 9, 11, 24).unbind()
    x.requires_grad_(), y.requires_grad_()
    y.data.copy_(x.data)
    weights = torch.randn(2, 9, 11, 40)
    (gelu_of(ours, x) * weights).sum().backward()
    (F.gelu(plain(y)) * weights).sum().backward()
    for a, b in ((x, y), (ours.weight, plain.weight), (ours.bias, plain.bias)):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)


def test_a_view_that_is_not_contiguous(fast_kernels: None) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 8)
    x = torch.randn(2, 24, 10, 13).permute(0, 2, 3, 1)[:, 1:, ::2]
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_take_the_plain_call(dtype: torch.dtype, fast_kernels: None) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, dtype=dtype)
    x = torch.randn(2, 100, 24, dtype=dtype)
    assert not use_fast_kernels(x)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_autocast_gives_its_type(fast_kernels: None) -> None:
    layer, x = Linear(24, 40), torch.randn(2, 100, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_switch(fast_kernels: None) -> None:
    x = torch.randn(100, 24)
    assert use_fast_kernels(x)
    set_fast_kernels(False)
    assert not use_fast_kernels(x)
    weight, bias = torch.randn(40, 24), torch.randn(40)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_parameters_are_those_of_torch() -> None:
    assert Linear(24, 40).state_dict().keys() == torch.nn.Linear(24, 40).state_dict().keys()
    assert isinstance(Linear(24, 40), torch.nn.Linear)


@pytest.mark.parametrize("fast", [True, False])
def test_gelu_by_tanh(fast: bool, fast_kernels: None) -> None:
    set_fast_kernels(fast)
    torch.manual_seed(0)
    layer, x = Linear(24, 40), 3 * torch.randn(70, 24)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            expected = F.gelu(F.linear(x, layer.weight, layer.bias), approximate="tanh")
            torch.testing.assert_close(gelu_of(layer, x, "tanh"), expected, atol=1e-5, rtol=1e-5)
