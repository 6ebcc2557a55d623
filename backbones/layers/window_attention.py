"""Self-attention inside windows that do not overlap (Liu et al., "Swin Transformer", arXiv:2103.14030, section 3.2)."""

from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers.attention import attend
from backbones.layers.window import crop, pad_to_multiple, window_partition, window_unpartition


@register_notrace_module
class WindowAttention(nn.Module):
    """Multi-head self-attention of the pixels in each window, without position bias.

    x: (B, H, W, C) -> (B, H, W, C). Any H and W: padded with zeros at the bottom and right to multiples of
    ``window_size``, and the padding is seen: its keys and values are the projection's bias. Cost: N * ws^2 * C twice,
    beside the projections.

    Args:
        dim: Channels.
        num_heads: Heads.
        window_size: Side of the windows, in pixels of the map.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads``, or ``window_size`` is below 1.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        if window_size < 1:
            raise ValueError(f"window_size is a number of pixels from 1 up, got {window_size}")
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = pad_to_multiple(x, self.window_size)
        _, padded_h, padded_w, _ = x.shape
        # Windows are cut before the projection, whose result is three times as large to copy.
        windows = window_partition(x, self.window_size)  # (B * nW, ws * ws, C)
        qkv = sequential(windows.view(B, padded_h * padded_w, C), self.qkv)  # layers see the batch first
        q, k, v = qkv.view(*windows.shape[:2], 3 * C).chunk(3, dim=-1)
        x = window_unpartition(attend(q, k, v, self.num_heads), self.window_size, padded_h, padded_w)
        return sequential(crop(x, H, W), self.proj)
