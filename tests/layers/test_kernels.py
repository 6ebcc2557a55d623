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
for i in range(6):
    if i == 2:  # by then the memory has been had once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(i)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that gives memory back")
def test_freed_memory_is_kept():
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True).stdout)

    assert faults("keep") < 100 < faults("default")


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
            y = kernels.conv2d(x, weight, bias, padding=padding, groups=groups, gelu=True)
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
