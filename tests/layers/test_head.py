"""Classifier head."""

import pytest
import torch
from torch import nn

from backbones.layers import ClassifierHead

POOLS = {
    "avg": lambda x: x.mean((1, 2)),
    "max": lambda x: x.amax((1, 2)),
    "avgmax": lambda x: (x.mean((1, 2)) + x.amax((1, 2))) / 2,
    "": lambda x: x,
}


@pytest.mark.parametrize("pool_type", POOLS)
def test_pools_then_classifies(pool_type: str) -> None:
    torch.manual_seed(0)
    head, x = ClassifierHead(8, 5, pool_type), torch.randn(2, 3, 4, 8)
    pooled = POOLS[pool_type](x)
    torch.testing.assert_close(head(x, pre_logits=True), pooled)
    torch.testing.assert_close(head(x), pooled @ head.fc.weight.T + head.fc.bias)


def test_projection_comes_before_pooling_and_norm_after() -> None:
    torch.manual_seed(0)
    proj, norm = nn.Linear(8, 12), nn.LayerNorm(12)
    head, x = ClassifierHead(8, 5, "max", proj=proj, norm=norm), torch.randn(2, 3, 4, 8)
    assert head.num_features == 12
    torch.testing.assert_close(head(x, pre_logits=True), norm(proj(x).amax((1, 2))))


def test_dropout_acts_in_training_only() -> None:
    head, x = ClassifierHead(64, 0, drop_rate=0.5), torch.ones(1, 2, 2, 64)
    assert set(head.train()(x).unique().tolist()) == {0.0, 2.0}
    assert head.eval()(x).eq(1).all()


def test_reset() -> None:
    head = ClassifierHead(8, 5, proj=nn.Linear(8, 12), norm=nn.LayerNorm(12)).eval()
    head.reset(3)
    assert head(torch.randn(2, 3, 4, 8)).shape == (2, 3)
    assert head.pool_type == "avg" and not head.fc.training
    head.reset(0, "", reset_other=True, in_features=8)
    x = torch.randn(2, 3, 4, 8)
    assert torch.equal(head(x), x) and head.num_features == 8


def test_unknown_pooling_is_named() -> None:
    with pytest.raises(ValueError, match="global_pool 'mean' is not one of"):
        ClassifierHead(8, 5, "mean")
