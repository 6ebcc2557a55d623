"""The call to fused attention against its formula."""

import torch

from backbones.layers.functional import attend, attend_heads, merge_heads, split_heads


def test_attend_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 18)
    heads = []
    for qh, kh, vh in zip(q.chunk(3, -1), k.chunk(3, -1), v.chunk(3, -1), strict=True):
        heads.append((qh @ kh.mT / 2).softmax(-1) @ vh)  # 4 channels a head
    torch.testing.assert_close(attend(q, k, v, 3), torch.cat(heads, -1))


def test_bias_is_added_to_the_logits() -> None:
    torch.manual_seed(0)
    q, k, v, bias = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(attend_heads(q, k, v, bias), (q @ k.mT / 2 + bias).softmax(-1) @ v)


def test_heads_are_split_and_merged() -> None:
    x = torch.randn(2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4) and heads.data_ptr() == x.data_ptr()
    assert torch.equal(heads[:, 1], x[..., 4:8])
    assert torch.equal(merge_heads(heads), x)
