"""Memory of a process, and computing a batch in chunks that stay in the cache."""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from backbones.kernels.machine import is_observed, serves

CHUNK_BYTES = 8 * 2**20  # what is computed in between is then still in the cache, beside the weights


def by_images(fn: Callable[[Tensor], Tensor], x: Tensor, bytes_per_image: int) -> Tensor:
    """``fn(x)``; in inference on a CPU a few images at a time, so that its intermediate results stay in the cache.

    Args:
        fn: Function of (B, ...) that treats images separately.
        x: (B, ...)
        bytes_per_image: Size of the intermediate results of an image that exist at the same time.
    """
    if is_observed() or torch.is_grad_enabled() or not serves(x):
        return fn(x)
    images = even_chunk(x.shape[0], CHUNK_BYTES // bytes_per_image)
    if images == x.shape[0]:
        return fn(x)
    return torch.cat([fn(chunk) for chunk in x.split(images)])


def even_chunk(total: int, limit: int) -> int:
    """Entries of a chunk, from 1 to ``limit``, in as few chunks as that takes: a short last one is slow."""
    chunks = -(-total // max(1, limit))
    return -(-total // chunks)


def keep_small_blocks() -> None:
    """Let the C library keep freed blocks below 32 MiB, as it does by itself in a process that freed one of that size.

    glibc takes blocks above a threshold from the kernel anew at each allocation, and gives the top of its heap back
    whenever twice that much of it is free. The threshold is the largest block that was freed so far, at most 32 MiB: a
    model whose maps are small has its pages mapped and cleared again at each call, for a fifth of its time (VAN-B0, one
    image). One block of that size, freed untouched, ends this. The process holds up to 64 MiB more than it uses.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor, for the whole process; returns whether it could.

    glibc takes blocks above 32 MiB from the kernel anew at each allocation and gives the top of its heap back whenever
    64 MiB of it are free; the pages are then mapped and cleared again, one by one, at a tenth to a third of the time of
    a training step with wide maps. After this call the process holds on to its peak memory instead
    (``M_TRIM_THRESHOLD`` off, ``M_MMAP_MAX`` 0). ``backbones train`` calls it; in a program of your own that is your
    choice.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    return bool(mallopt(trim_threshold, -1)) and bool(mallopt(mmap_max, 0))
