"""Linear layers and convolutions through the faster kernel, with faster gradients.

The functions take what ``F.linear`` and ``F.conv2d`` take and give the same numbers within rounding. They are met by
``sequential`` alone, which has seen that nobody looks at operators.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels.layout import to_nchw, to_nhwc
from backbones.kernels.machine import HERE, compute_dtype, computes_in, current_machine

# Activations by name: the function, and oneDNN's names of it and of its algorithm.
ACTS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "none": (lambda x: x, "none", ""),
    "relu": (F.relu, "relu", ""),
    "silu": (F.silu, "swish", ""),
    "gelu": (F.gelu, "gelu", "none"),
    "gelu_tanh": (partial(F.gelu, approximate="tanh"), "gelu", "tanh"),
}
Pair = tuple[int, int]

# What torch.compile emits for a convolution with an activation on it. A private operator, so it may go away.
convolution_pointwise = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_times = getattr(convolution_pointwise, "binary", None)


def _has_kernel(x: Tensor) -> bool:
    """Whether oneDNN has a kernel for ``x`` here, whatever machine choices are made for."""
    return HERE.onednn and (x.dtype == torch.float32 or HERE.bfloat16)


def _fuses(x: Tensor) -> bool:
    """Whether operators with an activation on their result serve ``x``: they have no gradient."""
    known = convolution_pointwise is not None and current_machine().onednn
    return known and not torch.is_grad_enabled() and computes_in(x, torch.float32, torch.bfloat16)


def _beats_blas(x: Tensor) -> bool:
    """Whether a product with the rows of ``x`` is faster through oneDNN's convolutions than through BLAS.

    Where BLAS lags, it is twice as fast with AVX-512. With AVX2 both reach the same; there oneDNN is ahead where many
    rows pay for re-laying the weights, and has very slow cases above a width of 1,024. In bfloat16 both are oneDNN's.
    """
    here, width = current_machine(), x.shape[-1]
    if not here.blas_lags or not computes_in(x, torch.float32):
        return False
    rows = x.numel() // width
    return rows >= 64 if here.avx512 else rows >= 4096 and width <= 1024


def _pixels(x: Tensor) -> Tensor:
    """View rows of a contiguous tensor as the pixels of a channels-last image: (..., C) -> (1, C, rows, 1)"""
    return x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, act: str = "none", times: Tensor | None = None
) -> Tensor:
    """``F.linear`` with an activation of ``ACTS`` on its result, as a 1x1 convolution where that kernel is faster.

    x: (..., C), times: (..., C_out) or None, which multiplies a result without activation -> (..., C_out). Rows of a
    contiguous ``x`` are the pixels of a channels-last (1, C, rows, 1) tensor, so nothing is copied on the way in or
    out.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    if times is not None:
        assert act == "none", "a product has no activation"
        if _times is None or rows < 64 or not _fuses(x):
            return linear(x, weight, bias) * times
        dtype = compute_dtype(x)  # not seen by autocast
        x, times, weight = (t.to(dtype) for t in (x, times, weight))
        bias = bias if bias is None else bias.to(dtype)
        if not _has_kernel(x):
            return F.linear(x, weight, bias) * times
        geometry = [0, 0], [1, 1], [1, 1], 1  # padding, stride, dilation, groups
        pixels = _times(
            _pixels(x), _pixels(times), weight[:, :, None, None], bias, *geometry, "mul", None, None, [], None
        )
        return pixels.permute(0, 2, 3, 1).view(times.shape)
    if _beats_blas(x) or (act != "none" and rows >= 64 and _fuses(x)):
        out = conv2d(_pixels(x), weight[:, :, None, None], bias, act=act)
        return out.permute(0, 2, 3, 1).reshape(x.shape[:-1] + weight.shape[:1])
    return ACTS[act][0](F.linear(x, weight, bias))


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    act: str = "none",
) -> Tensor:
    """``F.conv2d`` with an activation of ``ACTS`` on its result.

    x: (B, C, H, W), channels-last -> (B, C_out, H', W')
    """
    if not computes_in(x, torch.float32, torch.bfloat16):
        return ACTS[act][0](F.conv2d(x, weight, bias, stride, padding, dilation, groups))
    side, depthwise = weight.shape[2], groups == x.shape[1] == weight.shape[0]
    half = side // 2 * dilation[0]
    same = stride == (1, 1) and side % 2 == 1 == weight.shape[3] % 2 and padding == (half, half)
    if same and depthwise and dilation[0] == dilation[1] > 1 and side == weight.shape[3]:
        H, W = x.shape[2:]
        grids = to_nchw(interleave(to_nhwc(x), dilation[0]))
        grids = conv2d(grids, weight, bias, stride, (side // 2, side // 2), (1, 1), groups, act)
        return to_nchw(deinterleave(to_nhwc(grids), dilation[0], H, W))
    alike = same and side == weight.shape[3] and dilation == (1, 1) and (depthwise or (groups == 1 and side == 1))
    fast_gradient = torch.is_grad_enabled() and alike
    fast_act = act != "none" and dilation == (1, 1) and _fuses(x)
    if not (fast_act or fast_gradient):
        if dilation == (1, 1) and not torch.is_grad_enabled() and computes_in(x, torch.float32):
            return ACTS[act][0](_convolve(x, weight, bias, stride, padding, groups))
        return ACTS[act][0](F.conv2d(x, weight, bias, stride, padding, dilation, groups))
    x, weight, bias = (t if t is None else t.to(compute_dtype(x)) for t in (x, weight, bias))  # not seen by autocast
    if fast_gradient:
        return ACTS[act][0](SameConvolution.apply(x, weight, bias))
    if not _has_kernel(x):
        return ACTS[act][0](_convolve(x, weight, bias, stride, padding, groups))
    _, name, algorithm = ACTS[act]
    assert convolution_pointwise is not None
    return convolution_pointwise(x, weight, bias, padding, stride, (1, 1), groups, name, [], algorithm)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """An undilated convolution by oneDNN, to which ``F.conv2d`` does not go in a process of one thread."""
    if x.dtype == torch.float32 and HERE.onednn and current_machine().onednn:
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1), groups)
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)


def interleave(x: Tensor, dilation: int) -> Tensor:
    """Gather the ``dilation`` ** 2 interleaved sub-grids of a map into the batch (copies).

    A dilated convolution visits each sub-grid separately, so it equals an undilated one over the sub-grids in the
    batch. CPU kernels are several times faster at the latter.

    x: (B, H, W, C) -> (dilation ** 2 * B, ceil(H / dilation), ceil(W / dilation), C), zero-padded at the bottom and
    right.
    """
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % dilation, 0, -H % dilation))
    h, w = x.shape[1] // dilation, x.shape[2] // dilation
    x = x.view(B, h, dilation, w, dilation, C).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(dilation * dilation * B, h, w, C)


def deinterleave(x: Tensor, dilation: int, H: int, W: int) -> Tensor:
    """Inverse of ``interleave`` for a map of H x W: scatter the sub-grids back and crop (copies)."""
    B, (h, w, C) = x.shape[0] // dilation**2, x.shape[1:]
    x = x.view(dilation, dilation, B, h, w, C).permute(2, 3, 0, 4, 1, 5)
    return x.reshape(B, h * dilation, w * dilation, C)[:, :H, :W]


def product_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight of a product of rows, through the faster kernel.

    grad: (rows, C_out), x: (rows, C), weight: (C_out, C), for its shape -> (C_out, C)
    """
    here = current_machine()
    if here.avx512 and not here.split_avx512 and grad.dtype == torch.float32 and _beats_blas(x):
        grad, x = (t.reshape(1, len(t), 1, -1).permute(0, 3, 1, 2) for t in (grad, x))
        return _weight_gradient(grad, x, weight[:, :, None, None], 0, 1)[:, :, 0, 0]
    return grad.t() @ x


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
    # A dilation of a 1x1 kernel means nothing, but takes it to oneDNN in a process of one thread too.
    dilation = 2 if weight.shape[2] == 1 else 1
    options = [1, 1], [padding, padding], [dilation, dilation], False, [0, 0], groups  # stride first
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *options, [False, True, False])[1]


class SameConvolution(torch.autograd.Function):
    """A 1x1 or depthwise convolution that keeps the size of its map, with a backward pass of faster kernels.

    The gradient of its input is a convolution of the same kind, with the kernel transposed or flipped: oneDNN's kernels
    for that gradient take twice (1x1) to twenty times (depthwise) as long as those for convolutions. Its gradients of
    depthwise kernels are fast up to 3x3, so larger ones are put together from 3x3 parts.

    x: (B, C, H, W), channels-last; weight: (C_out, C, 1, 1) or (C, 1, k, k) with k odd -> (B, C_out, H, W)
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = weight.shape[2] // 2
        return _convolve(x, weight, bias, (1, 1), (half, half), x.shape[1] // weight.shape[1])

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
            flipped = weight.transpose(0, 1) if half == 0 and groups == 1 else weight.flip(2, 3)
            grad_x = _convolve(grad, flipped, None, (1, 1), (half, half), groups)
        if needs_weight:
            grad_weight = _kernel_gradient(grad, x, weight, groups)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None


def _kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    side, (H, W) = weight.shape[2], grad.shape[2:]
    if side == 1 and groups == 1:
        grad, x = (to_nhwc(t).flatten(0, 2) for t in (grad, x))
        return product_gradient(grad, x, weight[:, :, 0, 0])[:, :, None, None]
    if side <= 3:
        return _weight_gradient(grad, x, weight, side // 2, groups)
    count = -(-side // 3)
    extra = (3 * count - side) // 2  # offsets before the kernel's first, so that one of a 7x7's parts is its centre
    part = weight[:, :, :3, :3]  # for its shape

    def gradient_from(dy: int, dx: int) -> Tensor:
        rows, x_rows, above, below = _outputs_within(dy, H)
        columns, x_columns, left, right = _outputs_within(dx, W)
        grad_part, x_part = grad[:, :, rows, columns], x[:, :, x_rows, x_columns]
        if grad_part.numel() == 0:  # the kernel is wider than the map
            return torch.zeros_like(part)
        if above == below == left == right == 1:  # the kernel pads it without a copy
            return _weight_gradient(grad_part, x_part, part, 1, groups)
        x_part = to_nchw(F.pad(to_nhwc(x_part), (0, 0, left, right, above, below)))
        return _weight_gradient(grad_part, x_part, part, 0, groups)

    starts = range(-(side // 2) - extra, side // 2, 3)
    parts = [torch.cat([gradient_from(i, j) for j in starts], 3) for i in starts]
    return torch.cat(parts, 2)[:, :, extra : extra + side, extra : extra + side]


def _outputs_within(offset: int, size: int) -> tuple[slice, slice, int, int]:
    """Which outputs use any input through the kernel offsets ``offset`` to ``offset`` + 2, along one side of a map.

    Returns: These outputs, the inputs that they use, and how many zeros stand before and after these.
    """
    first = max(0, -offset - 2)
    last = max(first, min(size, size - offset))
    before, after = max(0, -offset - first), max(0, last + offset + 2 - size)
    return slice(first, last), slice(max(0, first + offset), min(size, last + offset + 2)), before, after
