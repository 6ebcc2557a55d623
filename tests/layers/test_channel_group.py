"""Channel group attention against a loop over groups."""

import pytest
import torch
from torch import Tensor

from backbones.kernels import set_fast_kernels
from backbones.layers import ChannelGroupAttention


def obvious(attn: ChannelGroupAttention, x: Tensor) -> Tensor:
    """One group at a time, with channels as rows: softmax(q k^T / sqrt(d)) v."""
    pixels = x.flatten(1, 2)
    C = x.shape[-1]
    d = C // attn.num_groups
    v, q, k = (pixels @ attn.qkv.weight.T + attn.qkv.bias).mT.split(C, dim=1)  # (B, C, N)
    groups = []
    for g in range(0, C, d):
        weights = (q[:, g : g + d] @ k[:, g : g + d].mT / d**0.5).softmax(-1)
        groups.append(weights @ v[:, g : g + d])
    out = torch.cat(groups, dim=1).mT
    return (out @ attn.proj.weight.T + attn.proj.bias).view(x.shape)


@pytest.mark.parametrize("size", [(14, 14), (9, 16), (1, 1), (56, 3)])
@pytest.mark.parametrize("num_groups", [1, 2, 8])
def test_equals_a_loop_over_groups(size: tuple[int, int], num_groups: int) -> None:
    torch.manual_seed(0)
    attn = ChannelGroupAttention(32, num_groups).double()
    torch.nn.init.normal_(attn.qkv.bias)
    x = torch.randn(2, *size, 32, dtype=torch.float64)
    torch.testing.assert_close(attn(x), obvious(attn, x))


@pytest.mark.parametrize("size", [(14, 14), (7, 5)])
def test_fast_kernels_give_the_same(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attn = ChannelGroupAttention(32, 4)
    x = torch.randn(2, *size, 32, requires_grad=True)
    results = []
    try:
        for enabled in (True, False):
            set_fast_kernels(enabled)
            out = attn(x)
            results.append([out, *torch.autograd.grad(out.square().sum(), [x, *attn.parameters()])])
    finally:
        set_fast_kernels(True)
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


def test_order_of_the_pixels_does_not_matter() -> None:
    torch.manual_seed(0)
    attn = ChannelGroupAttention(32, 4)
    x = torch.randn(2, 6, 5, 32)
    order = torch.randperm(30)
    shuffled = attn(x.flatten(1, 2)[:, order].view(x.shape))
    torch.testing.assert_close(shuffled, attn(x).flatten(1, 2)[:, order].view(x.shape))


def test_groups_do_not_mix_before_the_projection() -> None:
    torch.manual_seed(0)
    attn = ChannelGroupAttention(16, 2)
    with torch.no_grad():
        for block in attn.qkv.weight.split(16):  # q, k and v of a group from its own channels only
            block[:8, 8:] = 0
            block[8:, :8] = 0
        attn.proj.weight.copy_(torch.eye(16))
    x = torch.randn(1, 4, 4, 16)
    changed = x.clone()
    changed[..., 12] += 1
    differs = (attn(x) != attn(changed)).flatten(0, 2).any(0)
    assert differs[8:].all() and not differs[:8].any()


def test_gradients_match_numerical_ones() -> None:
    torch.manual_seed(0)
    attn = ChannelGroupAttention(8, 2).double()
    x = torch.randn(2, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attn, x)


def test_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match="dim 32 is not a multiple of num_groups 5"):
        ChannelGroupAttention(32, 5)
