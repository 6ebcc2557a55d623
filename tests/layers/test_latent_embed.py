"""Latents as tokens: patches by a loop, positions stored and computed."""

import pytest
import torch

from backbones.layers import LatentEmbed
from backbones.layers.functional import sincos_grid


@pytest.mark.parametrize("size", [(1, 4, 4), (3, 4, 6)])
def test_tokens_are_patches_plus_positions(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    embed = LatentEmbed(4, 16, 2, (1, 2, 2))
    x = torch.randn(2, 4, *size)
    tokens = embed(x.double())  # any type
    frames, height, width = size
    assert tokens.shape == (2, frames, height // 2, width // 2, 16) and tokens.dtype == torch.float32
    positions = sincos_grid(frames, height // 2, width // 2, 16, x.device)
    weight = embed.proj.weight.flatten(1)
    for f in range(frames):
        for i in range(height // 2):
            for j in range(width // 2):
                patch = x[:, :, f, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
                expected = patch @ weight.T + embed.proj.bias + positions[f, i, j]
                torch.testing.assert_close(tokens[:, f, i, j], expected, atol=1e-5, rtol=1e-4)


def test_the_stored_table_is_used_at_its_size() -> None:
    embed, x = LatentEmbed(4, 16, 2, (1, 2, 2)), torch.zeros(1, 4, 1, 4, 4)
    before = embed(x)
    embed.pos_embed += 1
    torch.testing.assert_close(embed(x), before + 1)
    torch.testing.assert_close(embed(torch.zeros(1, 4, 1, 8, 4))[:, :, :2], before)
    embed.reset_parameters()
    torch.testing.assert_close(embed.pos_embed.flatten(), sincos_grid(1, 2, 2, 16, x.device).flatten())


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        LatentEmbed(4, 24, 2, (1, 2, 2))
