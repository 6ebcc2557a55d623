"""The skeleton of tokens: what hooks see, what pruning leaves."""

import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones.models._registry import _variants
from backbones.models._tokens import TokenBackbone

NAMES = [name for name in backbones.list_models("test_*") if issubclass(_variants[name], TokenBackbone)]


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = backbones.create_model(name).eval()
    return model, torch.randn(3, *model.pretrained_cfg["input_size"])


@pytest.mark.parametrize("name", NAMES)
def test_the_stage_is_called_once_with_the_whole_batch(name: str) -> None:
    model, x = build(name)
    calls: list[Tensor] = []
    model.stages[0].register_forward_hook(lambda module, args, output: calls.append(output))
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
        early = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    assert len(calls) == 2 and all(output.shape[0] == 3 for output in calls)
    assert len(maps) == len(model.stages[0].blocks) and torch.equal(early[0], maps[1])


@pytest.mark.parametrize("name", NAMES)
def test_pruning_leaves_the_blocks_that_are_needed(name: str) -> None:
    model, x = build(name)
    with torch.no_grad():
        wanted = model.forward_intermediates(x, [0, 2], intermediates_only=True)
        assert model.prune_intermediate_layers([0, 2], prune_norm=True) == [0, 2]
        found = model.forward_intermediates(x, [0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert [info["module"] for info in model.feature_info][:3] == [f"stages.0.blocks.{i}" for i in range(3)]
    assert len(model.stages[0].blocks) == 3 and not any("head" in key for key in model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_recomputed(name: str) -> None:
    model, x = build(name)
    model.set_grad_checkpointing()
    counts = dict.fromkeys(range(len(model.stages[0].blocks)), 0)
    for i, block in enumerate(model.stages[0].blocks):
        block.register_forward_pre_hook(lambda *_, i=i: counts.update({i: counts[i] + 1}))
    sum(y.sum() for y in model.forward_intermediates(x, intermediates_only=True)).backward()
    assert set(counts.values()) == {2}
