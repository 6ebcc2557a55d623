"""The load-balancing loss as a hook."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from backbones.layers import HeadGate
from backbones.mm import HeadBalanceHook

pytestmark = pytest.mark.mm


def classifier(name: str) -> nn.Module:
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    backbone = dict(type="ZooBackbone", model=name, out_indices=None, num_classes=7)
    return MODELS.build(dict(type="ImageClassifier", backbone=backbone, head=dict(type="ClsHead")))


@pytest.mark.parametrize("name", ["test_moh", "test_nat_moh"])
def test_balance_is_a_loss_while_training(name: str) -> None:
    from mmpretrain.structures import DataSample

    model, hook = classifier(name), HeadBalanceHook(weight=0.5)
    runner = SimpleNamespace(model=model)
    batch = torch.randn(2, 3, 64, 64), [DataSample().set_gt_label(i) for i in range(2)]
    plain = model.loss(*batch)
    hook.before_train(runner)
    losses = model.loss(*batch)
    assert losses.keys() == {"loss", "loss_balance"}
    torch.testing.assert_close(losses["loss"], plain["loss"])
    losses["loss_balance"].backward()
    routers = [module.wg.weight for module in model.modules() if isinstance(module, HeadGate) and module.top_k]
    assert routers and any(weight.grad.any() for weight in routers)
    hook.after_train(runner)
    assert model.loss(*batch).keys() == {"loss"}


def test_a_model_without_gates_is_refused() -> None:
    with pytest.raises(ValueError, match="no gated heads"):
        HeadBalanceHook().before_train(SimpleNamespace(model=classifier("test_transnext")))
