"""Large-kernel attention against its three convolutions, and what it sees."""

import pytest
import torch
import torch.nn.functional as F

from backbones.kernels import set_fast_kernels
from backbones.layers import LargeKernelAttention


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("size", [(24, 24), (13, 29), (1, 4)])
def test_equals_three_convolutions(size: tuple[int, int], fast: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    set_fast_kernels(fast)
    attn, x = LargeKernelAttention(16), torch.randn(2, *size, 16)
    y = x.permute(0, 3, 1, 2)
    u = F.conv2d(y, attn.local.weight, attn.local.bias, padding=2, groups=16)
    u = F.conv2d(u, attn.dilated.weight, attn.dilated.bias, padding=9, dilation=3, groups=16)
    u = F.conv2d(u, attn.mix.weight[:, :, None, None], attn.mix.bias)
    torch.testing.assert_close(attn(x), (y * u).permute(0, 2, 3, 1))


def test_reaches_eleven_pixels() -> None:
    torch.manual_seed(0)
    attn, x = LargeKernelAttention(4), torch.randn(1, 33, 33, 4)
    changed = x.clone()
    changed[:, 16, 16] += 1
    seen = (attn(x) - attn(changed)).abs().amax(-1)[0] > 1e-6
    rows = seen.any(1).nonzero().flatten()
    assert (rows.min(), rows.max()) == (16 - 11, 16 + 11)
