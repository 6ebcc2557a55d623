"""The soft mask's schedule as a hook."""

from types import SimpleNamespace

import pytest
from torch import nn

from backbones.layers import CausalRopeAttention
from backbones.mm import SoftMaskHook, ZooBackbone

pytestmark = pytest.mark.mm


def rates(hook: SoftMaskHook, iterations: range, model: nn.Module) -> list[float]:
    """The rate in every block at each iteration of a run with 10 iterations an epoch."""
    runner = SimpleNamespace(model=model, iter=iterations[0], train_dataloader=range(10))
    hook.before_train(runner)
    seen = []
    for runner.iter in iterations:
        hook.before_train_iter(runner, runner.iter % 10)
        (rate,) = {m.soft_mask_rate for m in model.modules() if isinstance(m, CausalRopeAttention)}
        seen.append(rate)
    return seen


@pytest.fixture
def model() -> nn.Module:
    return nn.ModuleDict({"backbone": ZooBackbone("test_illama", out_indices=(1, 3))})


def test_schedules(model):
    linear = rates(SoftMaskHook("linear", cutoff_epoch=2), range(25), model)
    assert linear == pytest.approx([1 - i / 20 for i in range(20)] + [0.0] * 5)
    constant = rates(SoftMaskHook("constant", cutoff_epoch=2), range(25), model)
    assert constant == [1.0] * 20 + [0.0] * 5


def test_resumed_run_goes_on_where_it_was(model):
    whole = rates(SoftMaskHook("linear", cutoff_epoch=2), range(20), model)
    assert rates(SoftMaskHook("linear", cutoff_epoch=2), range(13, 20), model) == whole[13:]


def test_mistakes():
    with pytest.raises(ValueError, match="'cosine' is neither"):
        SoftMaskHook("cosine")
    with pytest.raises(ValueError, match="cutoff_epoch is 0"):
        SoftMaskHook(cutoff_epoch=0)
    with pytest.raises(ValueError, match="no iLLaMA in the model"):
        rates(SoftMaskHook(), range(1), nn.Linear(1, 1))
