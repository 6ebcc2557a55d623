"""The choice of kernels, and the allocator."""

import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from backbones.layers import kernels

FAULTS = """
import resource, sys, torch
from backbones.layers.kernels import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for i in range(12):
    if i == 4:  # by then the memory has been had once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(i)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that gives memory back")
def test_freed_memory_is_kept():
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True).stdout)

    assert faults("keep") < faults("default") / 4  # the heap may still grow once


PIECES = """
import resource, torch
from backbones.layers.kernels import map_images
with torch.no_grad():
    map_images(torch.relu, torch.zeros(2, 3), bytes_per_image=12)
for i in range(12):
    if i == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.empty(15 * 2**18).fill_(i) for _ in range(4)]  # 15 MiB each
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that gives memory back")
def test_pieces_of_a_batch_get_the_same_memory_each_time():
    run = subprocess.run([sys.executable, "-c", PIECES], check=True, capture_output=True)
    assert int(run.stdout) < 8 * 15 * 2**8 / 4  # else all of their pages may be new, where the heap ends with them


def test_switch_turns_fast_kernels_off():
    x = torch.zeros(1)
    assert kernels.use_fast_kernels(x)
    try:
        kernels.set_fast_kernels(False)
        assert not kernels.use_fast_kernels(x)
    finally:
        kernels.set_fast_kernels(True)


def test_only_plain_float32_on_a_cpu_is_fast():
    assert not kernels.use_fast_kernels(torch.zeros(1, dtype=torch.float64))
    assert not kernels.use_fast_kernels(torch.zeros(1, device="meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not kernels.use_fast_kernels(torch.zeros(1))


def test_gelu_in_the_convolution_equals_gelu_after_it():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12, 10).contiguous(memory_format=torch.channels_last)
    for weight, groups in ((torch.randn(16, 8, 1, 1), 1), (torch.randn(8, 1, 3, 3), 8)):
        padding = (weight.shape[-1] // 2,) * 2
        bias = torch.randn(len(weight))
        expected = F.gelu(F.conv2d(x, weight, bias, padding=padding, groups=groups))
        with torch.no_grad():
            y = kernels.conv2d(x, weight, bias, padding=padding, groups=groups, act="gelu")
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_images_in_pieces_equal_the_whole_batch():
    x, sizes = torch.randn(5, 3), []

    def fn(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return part * 2

    with torch.no_grad():
        torch.testing.assert_close(kernels.map_images(fn, x, bytes_per_image=2**23), x * 2)
    assert sizes == [2, 2, 1]
    sizes.clear()
    kernels.map_images(fn, x, bytes_per_image=2**23)  # with gradients: what it holds is kept anyway
    assert sizes == [5]


@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize("size", [(9, 7), (3, 2), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "out_chans,groups,side", [(24, 1, 1), (16, 16, 1), (16, 16, 3), (16, 16, 5), (16, 16, 7), (16, 16, 9)]
)
def test_convolutions_have_the_gradients_of_the_plain_ones(out_chans, groups, side, size, avx512, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(kernels, "_HAS_AVX512", avx512)
    x = torch.randn(2, 16, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(out_chans, 16 // groups, side, side, requires_grad=True)
    bias = torch.randn(out_chans, requires_grad=True)
    y = kernels.conv2d(x, weight, bias, padding=(side // 2,) * 2, groups=groups)
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
    y = kernels.conv2d(x, weight, None, (stride, stride), (padding, padding), groups)
    assert "Convolution" in y.grad_fn.name() and "Same" not in y.grad_fn.name()


@pytest.mark.parametrize("out_chans,groups,side", [(24, 1, 1), (16, 16, 3), (16, 16, 5)])
@pytest.mark.parametrize("act", ["none", "gelu"])
def test_convolutions_follow_autocast(out_chans, groups, side, act):
    """In bfloat16 what they compute, output and gradients, is the plain call's under autocast."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(out_chans, 16 // groups, side, side, requires_grad=True)
    bias = torch.randn(out_chans, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = kernels.conv2d(x, weight, bias, padding=(side // 2,) * 2, groups=groups, act=act)
        expected = F.conv2d(x, weight, bias, padding=side // 2, groups=groups)
        expected = F.gelu(expected) if act == "gelu" else expected
        with torch.no_grad():
            fused = kernels.conv2d(x, weight, bias, padding=(side // 2,) * 2, groups=groups, act=act)
    assert y.dtype == fused.dtype == torch.bfloat16
    close = dict(atol=0.15, rtol=0.05)  # bfloat16 has 8 bits, and the values reach 20
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(fused, expected, **close)
    for gradient, reference in zip(*(torch.autograd.grad(z.float().sum(), (x, weight, bias)) for z in (y, expected))):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, reference, atol=0.02 * reference.abs().max().item(), rtol=0.05)
