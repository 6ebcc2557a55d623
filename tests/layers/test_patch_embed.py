"""Patch embeddings against their convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers import PatchEmbed


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({"kernel_size": 7, "stride": 4, "padding": 3}, (9, 6)),  # rounded up: the kernel overlaps
        ({"kernel_size": 4, "stride": 4}, (8, 5)),
        ({"kernel_size": 4, "stride": 4, "pad": True}, (9, 6)),
    ],
    ids=str,
)
def test_equals_a_convolution(options: dict, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    embed, x = PatchEmbed(3, 8, **options), torch.randn(2, 33, 22, 3)
    padded = F.pad(x, (0, 0, 0, 2, 0, 3)) if "pad" in options else x
    y = F.conv2d(padded.permute(0, 3, 1, 2), embed.proj.weight, embed.proj.bias, 4, options.get("padding", 0))
    torch.testing.assert_close(embed(x), y.permute(0, 2, 3, 1))
    assert embed(x).shape == (2, *sides, 8)


def test_norms_come_before_and_after() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 8, 3)
    before, layer, batch = nn.LayerNorm(3), nn.LayerNorm(6), nn.BatchNorm2d(6)
    plain = PatchEmbed(3, 6, 2, 2)
    for norm, normed in ((layer, layer(plain(before(x)))), (batch, batch(plain(before(x)).permute(0, 3, 1, 2)))):
        embed = PatchEmbed(3, 6, 2, 2, pre_norm=before, post_norm=norm)
        embed.proj = plain.proj
        expected = normed if norm is layer else normed.permute(0, 2, 3, 1)
        torch.testing.assert_close(embed(x), expected)
