"""The allocator, and batches in chunks."""

import platform
import subprocess
import sys

import pytest
import torch

from backbones.kernels import by_images
from backbones.kernels.memory import CHUNK_BYTES

FAULTS = """
import resource, sys, torch
from backbones.kernels import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for i in range(12):
    if i == 4:  # by then the memory has been had once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(i)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
MAPPED = """
import ctypes, torch
{}
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_int) for name in names.split()]
mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Info
before = mallinfo().hblks  # blocks that the kernel maps for malloc
block = torch.empty(24 * 2**20, dtype=torch.uint8)
print(mallinfo().hblks - before)
"""
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that gives memory back"
)


def _printed(script: str, *args: str) -> int:
    return int(subprocess.run([sys.executable, "-c", script, *args], check=True, capture_output=True).stdout)


@pytest.mark.slow
@needs_glibc
def test_freed_memory_is_kept() -> None:
    assert _printed(FAULTS, "keep") < _printed(FAULTS, "default") / 4  # the heap may still grow once


@pytest.mark.slow
@needs_glibc
def test_small_blocks_are_not_mapped_anew() -> None:
    """A block of 24 MiB comes from the heap, which keeps it, rather than from the kernel, as with PyTorch alone."""
    assert _printed(MAPPED.format("")) == 1
    assert _printed(MAPPED.format("import backbones.kernels")) == 0


@pytest.mark.parametrize("case", ["chunks", "fits", "gradients"])
def test_chunks_equal_the_whole_batch(case: str) -> None:
    x, sizes = torch.randn(5, 3), []

    def double(chunk: torch.Tensor) -> torch.Tensor:
        sizes.append(len(chunk))
        return chunk * 2

    with torch.set_grad_enabled(case == "gradients"):  # what they store is stored anyway
        y = by_images(double, x, bytes_per_image=CHUNK_BYTES // (9 if case == "fits" else 2))
    assert torch.equal(y, x * 2)
    assert sizes == ([2, 2, 1] if case == "chunks" else [5])
