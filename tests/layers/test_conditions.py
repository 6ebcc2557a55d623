"""Embeddings of times, classes and texts: against their formulas, and what they refuse."""

import math

import pytest
import torch
import torch.nn.functional as F

from backbones.layers import TextEmbed, TimeEmbed
from backbones.layers.functional import class_labels, text_bias


def test_time_is_a_sinusoid_through_two_layers() -> None:
    torch.manual_seed(0)
    embed, tokens = TimeEmbed(8, time_chans=6), torch.zeros(2, 3)
    times = torch.tensor([0.5, 900.0])
    waves = [[f(t * 10000 ** (-i / 3)) for f in (math.cos, math.sin) for i in range(3)] for t in times.tolist()]
    expected = embed.fc2(F.silu(embed.fc1(torch.tensor(waves))))
    torch.testing.assert_close(embed(times, tokens), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embed(900, tokens), expected[1:].expand(2, -1), atol=1e-5, rtol=1e-4)
    assert embed.fc1.weight.std() < 0.03 and not embed.fc1.bias.any()
    for wrong in (times[:1], times[None]):
        with pytest.raises(ValueError, match=r"one a sample, \(2,\); got"):
            embed(wrong, tokens)


def test_times_are_rounded_after_the_sinusoid() -> None:
    embed = TimeEmbed(8).bfloat16()
    near = embed(torch.tensor([933.25, 932.0]), torch.zeros(2, 1, dtype=torch.bfloat16))
    assert near.dtype == torch.bfloat16 and not torch.equal(near[0], near[1])


def test_text_is_embedded_in_the_type_of_the_tokens() -> None:
    embed, context = TextEmbed(6, 8), torch.randn(2, 5, 6)
    expected = embed.fc2(F.gelu(embed.fc1(context), approximate="tanh"))
    torch.testing.assert_close(embed(context.double(), torch.zeros(2, 3)), expected)
    for wrong in (context[:1], context[..., :5], context[0]):
        with pytest.raises(ValueError, match=r"context is \(2, L, 6\), got"):
            embed(wrong, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"give context \(B, L, 6\)"):
        embed(None, torch.zeros(2, 3))


def test_padding_of_a_text_is_hidden() -> None:
    text = torch.zeros(1, 3, 8)
    assert text_bias(None, text) is None
    bias = text_bias(torch.tensor([[True, True, False]]), text)
    assert bias is not None and bias.tolist() == [[[[0, 0, -10000]]]]
    with pytest.raises(ValueError, match=r"context_mask is \[1, 3\], got \[1, 2\]"):
        text_bias(torch.ones(1, 2), text)


def test_no_class_is_the_last() -> None:
    tokens = torch.zeros(2, 3)
    assert class_labels(None, tokens, 7).tolist() == [7, 7]
    assert class_labels(torch.tensor([0, 7]), tokens, 7).tolist() == [0, 7]
    assert class_labels(torch.tensor([], dtype=torch.long), tokens[:0], 7).shape == (0,)
    for wrong in ([0, 8], [-1, 0], [1], [0.0, 1.0]):
        with pytest.raises(ValueError, match=r"classes go from 0 to 6|an integer class a sample"):
            class_labels(torch.tensor(wrong), tokens, 7)
