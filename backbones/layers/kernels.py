"""Which kernel runs an operation: the one place where devices are told apart.

Every fast path of the package asks ``use_fast_paths``, or a narrower question below it, and gives the same numbers
(within rounding) as the plain call beside it. Setting the environment variable ``BACKBONES_FAST_KERNELS=0``, or
``set_fast_kernels(False)``, makes every layer take the plain call.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_enabled = os.environ.get("BACKBONES_FAST_KERNELS", "1") != "0"

# What this processor and this build of PyTorch have, found out once; constants, so that a compiler looks no further.
_CPUINFO = Path("/proc/cpuinfo")
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
# There are none for processors without AVX-512.
_ONEDNN_HAS_BFLOAT16 = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
# Without it, oneDNN has slow code for some passes of channels-last maps.
_HAS_AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
# MKL takes less than the best path of processors that are not Intel's. The vendor decides rather than a measurement, so
# that a run can be repeated bit for bit.
_MKL_HOLDS_BACK = torch.backends.mkl.is_available() and _CPUINFO.exists() and "AuthenticAMD" in _CPUINFO.read_text()


def set_fast_kernels(enabled: bool) -> None:
    """Switch all fast paths on (the default) or off, for the whole process."""
    global _enabled
    _enabled = enabled


def use_fast_paths(x: Tensor) -> bool:
    """Whether ``x`` is on a CPU and fast paths are switched on, for those that serve every type.

    Exported programs are meant for other runtimes, so they hold the plain operators.
    """
    return _enabled and x.device.type == "cpu" and not torch.compiler.is_exporting()


def use_fast_kernels(x: Tensor) -> bool:
    """``use_fast_paths`` for those that serve float32 alone, outside autocast."""
    return use_fast_paths(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def compute_dtype(x: Tensor) -> torch.dtype:
    """Type in which a convolution or a linear layer of ``x`` computes: autocast's where that is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def use_fast_convolutions(x: Tensor) -> bool:
    """``use_fast_paths`` for convolutions and linear layers, in float32 and where there are kernels in bfloat16."""
    if not use_fast_paths(x):
        return False
    dtypes = {x.dtype, compute_dtype(x)}
    return dtypes <= {torch.float32, torch.bfloat16} and (torch.bfloat16 not in dtypes or _ONEDNN_HAS_BFLOAT16)


def onednn_beats_blas(rows: int, width: int) -> bool:
    """Whether (rows, width) times a matrix is faster through oneDNN (convolutions) than through BLAS.

    With AVX-512, which MKL uses on Intel's processors alone, it is twice as fast. With AVX2 both reach the same; there
    oneDNN is ahead where many rows pay for re-laying the weights, and has very slow cases above a width of 1,024.
    """
    if not (_HAS_ONEDNN and _MKL_HOLDS_BACK):
        return False
    return rows >= 64 if _HAS_AVX512 else rows >= 4096 and width <= 1024


def convolutions_use_onednn() -> bool:
    """Whether ``F.conv2d`` hands 1x1 convolutions to oneDNN: with a single thread PyTorch keeps them to itself."""
    return torch.compiler.is_compiling() or torch.get_num_threads() > 1


# What torch.compile emits for a convolution with an activation on it. A private operator, so it may go away.
_convolution_pointwise = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


def fuses_pointwise(x: Tensor) -> bool:
    """Whether inference on ``x`` may run operators that apply an activation as they store their result.

    They have no gradient, and the compiler and the tracer do not look into them.
    """
    return (
        _convolution_pointwise is not None
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and use_fast_convolutions(x)
        and _HAS_ONEDNN
    )


# Activations by name: the function, and oneDNN's names of it and of its algorithm.
_ACTS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "none": (lambda x: x, "none", ""),
    "relu": (F.relu_, "relu", ""),
    "gelu": (F.gelu, "gelu", "none"),
    "gelu_tanh": (partial(F.gelu, approximate="tanh"), "gelu", "tanh"),
}


def activate(x: Tensor, act: str) -> Tensor:
    """The activation of that name: "none", "relu" (in place), "gelu" or "gelu_tanh"."""
    return _ACTS[act][0](x)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    act: str = "none",
) -> Tensor:
    """Undilated ``F.conv2d`` with ``activate`` on its result: in inference the two are one kernel.

    x: (B, C, H, W), channels-last -> (B, C_out, H', W')
    """
    side, depthwise = weight.shape[2], groups == x.shape[1] == weight.shape[0]
    same = stride == (1, 1) and side % 2 == 1 and padding == (side // 2, side // 2)
    alike = same and (depthwise or (groups == 1 and side == 1))
    fast_gradient = torch.is_grad_enabled() and alike and use_fast_convolutions(x)
    fast_act = act != "none" and fuses_pointwise(x)
    if fast_act or fast_gradient:  # neither is known to autocast
        x, weight, bias = (t if t is None else t.to(compute_dtype(x)) for t in (x, weight, bias))
    if fast_act:
        assert _convolution_pointwise is not None
        _, name, algorithm = _ACTS[act]
        return _convolution_pointwise(x, weight, bias, padding, stride, (1, 1), groups, name, [], algorithm)
    y = (
        SameConvolution.apply(x, weight, bias)
        if fast_gradient
        else F.conv2d(x, weight, bias, stride, padding, groups=groups)
    )
    return activate(y, act)


class SameConvolution(torch.autograd.Function):
    """A 1x1 or depthwise convolution that keeps the size of its map, with a backward pass of faster kernels.

    The gradient of its input is a convolution of the same kind, with the kernel transposed or turned by 180 degrees:
    oneDNN's kernels for that gradient take twice (1x1) to twenty times (depthwise) as long as those for convolutions.
    Its gradients of depthwise kernels are fast up to 3x3, so larger ones are put together from 3x3 pieces.

    x: (B, C, H, W), channels-last; weight: (C_out, C, 1, 1) or (C, 1, k, k) with k odd -> (B, C_out, H, W)
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=x.shape[1] // weight.shape[1])

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        groups, half = x.shape[1] // weight.shape[1], weight.shape[2] // 2
        grad_x = grad_weight = None
        if needs_x:
            turned = weight.transpose(0, 1) if half == 0 and groups == 1 else weight.flip(2, 3)
            grad_x = F.conv2d(grad, turned, padding=half, groups=groups)
        if needs_weight:
            grad_weight = _kernel_gradient(grad, x, weight, groups)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None


def _kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    side, (H, W) = weight.shape[2], grad.shape[2:]
    if side == 1 and groups == 1 and not _HAS_AVX512:  # a product of two matrices, a third of the time there
        rows = [t.permute(0, 2, 3, 1).flatten(0, 2) for t in (grad, x)]
        return (rows[0].t() @ rows[1])[:, :, None, None]

    def gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        options = [1, 1], [padding, padding], [1, 1], False, [0, 0], groups  # stride, padding, dilation, transposed
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *options, [False, True, False])[1]

    if side <= 3:
        return gradient(grad, x, weight, side // 2)
    count = -(-side // 3)
    spare = (3 * count - side) // 2  # taps before the kernel's first, so that one of seven's pieces is its centre
    piece = weight[:, :, :3, :3]  # for its shape

    def gradient_from(taps_y: int, taps_x: int) -> Tensor:
        rows, x_rows, above, below = _reach(taps_y, H)
        columns, x_columns, left, right = _reach(taps_x, W)
        part, x_part = grad[:, :, rows, columns], x[:, :, x_rows, x_columns]
        if part.numel() == 0:  # the kernel is wider than the map
            return torch.zeros_like(piece)
        if above == below == left == right == 1:  # the kernel pads it without a copy
            return gradient(part, x_part, piece, 1)
        x_part = F.pad(x_part.permute(0, 2, 3, 1), (0, 0, left, right, above, below)).permute(0, 3, 1, 2)
        return gradient(part, x_part, piece, 0)

    starts = range(-(side // 2) - spare, side // 2, 3)
    pieces = [torch.cat([gradient_from(i, j) for j in starts], 3) for i in starts]
    return torch.cat(pieces, 2)[:, :, spare : spare + side, spare : spare + side]


def _reach(tap: int, size: int) -> tuple[slice, slice, int, int]:
    """Which outputs use any input through the three taps from ``tap`` on, along one side of a map of ``size``.

    Returns: These outputs, the inputs that they use, and how many zeros stand before and after these.
    """
    first = max(0, -tap - 2)
    last = max(first, min(size, size - tap))
    before, after = max(0, -tap - first), max(0, last + tap + 2 - size)
    return slice(first, last), slice(max(0, first + tap), min(size, last + tap + 2)), before, after


_CHUNK_BYTES = 16 * 2**20


@cache
def _keep_pieces() -> None:
    """Let glibc keep up to 64 MiB of freed memory for the next pieces.

    It does so once it was given a block of 32 MiB back; until then its limits are the largest so far and twice that,
    and inference spends a tenth to a fifth of its time on pages. No page of this block is ever touched.
    """
    torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8, device="cpu")


def map_images(fn: Callable[[Tensor], Tensor], x: Tensor, bytes_per_image: int) -> Tensor:
    """``fn(x)``, in inference on a CPU run over a few images at a time so that what it holds stays below 16 MiB.

    Such pieces stay in the cache, and blocks above 32 MiB would come from the kernel page by page at every call.

    Args:
        fn: Function of (B, ...) that treats images separately.
        x: (B, ...)
        bytes_per_image: What ``fn`` holds at a time, or the largest part of it, an image.
    """
    if not fuses_pointwise(x):
        return fn(x)
    _keep_pieces()
    images = max(1, _CHUNK_BYTES // bytes_per_image)
    if images >= x.shape[0]:
        return fn(x)
    return torch.cat([fn(part) for part in x.split(images)])


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor, for the whole process; returns whether it could.

    glibc takes blocks above 32 MiB from the kernel anew at each allocation and gives the top of its heap back whenever
    64 MiB of it are free; the pages are then mapped and cleared again, one by one, at a tenth to a third of the time of
    a model with wide maps. The process holds on to its peak memory instead. Not done on import: the process is the
    caller's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    return bool(mallopt(trim_threshold, -1)) and bool(mallopt(mmap_max, 0))
