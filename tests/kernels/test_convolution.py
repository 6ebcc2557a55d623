"""Linear layers and convolutions through other kernels against the plain calls, on every kind of CPU."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from backbones.kernels import Machine, convolution, use_machine
from backbones.kernels.convolution import ACTS, conv2d, linear
from tests.machines import MACHINES


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("rows", [1, 70, 5000])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(rows: int, bias: bool, act: str, any_machine: Machine) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, rows, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    offset = torch.randn(5, requires_grad=True) if bias else None
    inputs = [t for t in (x, weight, offset) if t is not None]
    expected, y = ACTS[act][0](F.linear(x, weight, offset)), linear(x, weight, offset, act)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    for found, wanted in zip(*(torch.autograd.grad(z.sum(), inputs) for z in (y, expected)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, offset, act), expected, atol=1e-5, rtol=1e-5)


def test_linear_goes_to_the_faster_kernel() -> None:
    def convolves(rows: int, width: int) -> bool:
        with patch.object(convolution, "conv2d", side_effect=conv2d) as calls:
            linear(torch.randn(rows, width), torch.randn(4, width))
        return calls.called

    cases = [("AMD with AVX-512", 64, 8, True), ("AMD with AVX-512", 63, 8, False), ("AMD with AVX2", 4096, 8, True)]
    cases += [("AMD with AVX2", 4095, 8, False), ("AMD with AVX2", 4096, 1025, False), ("without oneDNN", 64, 8, False)]
    for name, rows, width, expected in [*cases, ("Intel with AVX-512", 5000, 8, False), ("one thread", 64, 8, True)]:
        with use_machine(MACHINES[name]):
            assert convolves(rows, width) == expected, (name, rows, width)


def test_gelu_in_the_convolution_equals_gelu_after_it(any_machine: Machine) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12, 10).contiguous(memory_format=torch.channels_last)
    for weight, groups in ((torch.randn(16, 8, 1, 1), 1), (torch.randn(8, 1, 3, 3), 8)):
        padding = (weight.shape[-1] // 2,) * 2
        bias = torch.randn(len(weight))
        expected = F.gelu(F.conv2d(x, weight, bias, padding=padding, groups=groups))
        with torch.no_grad():
            y = conv2d(x, weight, bias, padding=padding, groups=groups, act="gelu")
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(9, 7), (3, 2), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "out_chans,groups,side", [(24, 1, 1), (16, 16, 1), (16, 16, 3), (16, 16, 5), (16, 16, 7), (16, 16, 9)]
)
def test_convolutions_have_the_gradients_of_the_plain_ones(out_chans, groups, side, size, any_machine) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(out_chans, 16 // groups, side, side, requires_grad=True)
    bias = torch.randn(out_chans, requires_grad=True)
    y = conv2d(x, weight, bias, padding=(side // 2,) * 2, groups=groups)
    assert "SameConvolution" in y.grad_fn.name()
    expected = F.conv2d(x, weight, bias, padding=side // 2, groups=groups)
    torch.testing.assert_close(y, expected)
    inputs, dy = (x, weight, bias), torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, dy, create_graph=True)
    wanted = torch.autograd.grad(expected, inputs, dy, create_graph=True)
    for gradient, reference in zip(gradients, wanted):
        torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-4)
    again, twice = (torch.autograd.grad(sum(g.square().sum() for g in gs), inputs[:2]) for gs in (gradients, wanted))
    for gradient, reference in zip(again, twice):  # gradients of gradients
        torch.testing.assert_close(gradient, reference, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("chans,out_chans,groups,stride,padding", [(4, 8, 4, 1, 1), (8, 8, 8, 2, 1), (8, 8, 1, 1, 1)])
def test_other_convolutions_stay_plain(chans, out_chans, groups, stride, padding):
    x, weight = torch.randn(1, chans, 6, 6), torch.randn(out_chans, chans // groups, 3, 3, requires_grad=True)
    y = conv2d(x, weight, None, (stride, stride), (padding, padding), groups=groups)
    assert "Convolution" in y.grad_fn.name() and "Same" not in y.grad_fn.name()


@pytest.mark.parametrize("out_chans,groups,side", [(24, 1, 1), (16, 16, 3), (16, 16, 5)])
@pytest.mark.parametrize("act", ["none", "gelu"])
def test_convolutions_follow_autocast(out_chans, groups, side, act, any_machine) -> None:
    """In bfloat16 what they compute, output and gradients, is the plain call's under autocast."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(out_chans, 16 // groups, side, side, requires_grad=True)
    bias = torch.randn(out_chans, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv2d(x, weight, bias, padding=(side // 2,) * 2, groups=groups, act=act)
        expected = F.conv2d(x, weight, bias, padding=side // 2, groups=groups)
        expected = F.gelu(expected) if act == "gelu" else expected
        with torch.no_grad():
            fused = conv2d(x, weight, bias, padding=(side // 2,) * 2, groups=groups, act=act)
    assert y.dtype == fused.dtype == torch.bfloat16
    close = dict(atol=0.15, rtol=0.05)  # bfloat16 has 8 bits, and the values reach 20
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(fused, expected, **close)
    for gradient, reference in zip(*(torch.autograd.grad(z.float().sum(), (x, weight, bias)) for z in (y, expected))):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, reference, atol=0.02 * reference.abs().max().item(), rtol=0.05)


@pytest.mark.parametrize("here", [Machine(bfloat16=True), Machine()], ids=["bfloat16", "no bfloat16"])
def test_a_product_times_a_gate_follows_autocast(here: Machine, any_machine: Machine) -> None:
    """The operator with a product in it is not called in bfloat16 where the CPU has no kernel, whatever is believed."""
    x, weight, bias, gate = torch.randn(70, 6), torch.randn(5, 6), torch.randn(5), torch.randn(70, 5)
    called: list[torch.dtype] = []

    def times(x, other, weight, bias, *rest):
        called.append(x.dtype)
        return F.conv2d(x, weight, bias) * other

    with patch.object(convolution, "HERE", here), patch.object(convolution, "_times", times), torch.no_grad():
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found, expected = linear(x, weight, bias, times=gate), F.linear(x, weight, bias) * gate
            torch.testing.assert_close(found, expected, atol=0.15, rtol=0.05, check_dtype=False)
    assert here.bfloat16 or torch.bfloat16 not in called
