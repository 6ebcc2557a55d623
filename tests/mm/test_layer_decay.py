"""Layer-wise learning-rate decay: which rate and weight decay every parameter of a whole network gets."""

import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import backbones
import backbones.mm  # noqa: F401

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[2]
TINY = [f"test_{folder.parent.name}" for folder in sorted(ROOT.glob("configs/*/classification"))]
RATE, LR, DECAY = 0.5, 1e-3, 0.05


def network(framework: str, **backbone) -> torch.nn.Module:
    """A whole network of one of the OpenMMLab libraries, without memory."""
    backbone = dict(type="ZooBackbone") | backbone
    widths = [info["num_chs"] for info in timm.create_model(backbone["model"]).feature_info]
    fpn = dict(in_channels=widths, out_channels=16, num_outs=4)
    config = dict(
        mmpretrain=dict(
            type="mmpretrain.ImageClassifier",
            backbone=dict(backbone, out_indices=None),
            head=dict(type="mmpretrain.ClsHead"),
        ),
        mmdet=dict(
            type="mmdet.RetinaNet",
            backbone=backbone,
            neck=dict(fpn, type="mmdet.FPN"),
            bbox_head=dict(type="mmdet.RetinaHead", num_classes=3, in_channels=16, feat_channels=16),
        ),
        mmseg=dict(
            type="mmseg.EncoderDecoder",
            backbone=backbone,
            neck=dict(fpn, type="mmseg.FPN"),
            decode_head=dict(
                type="mmseg.FPNHead",
                in_channels=[16] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[4, 8, 16, 32],
                channels=16,
                num_classes=3,
            ),
        ),
    )[framework]
    init_default_scope(framework)
    with torch.device("meta"):
        return MODELS.build(config)


def settings(model: torch.nn.Module, **paramwise) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each trained parameter."""
    options = dict(
        optimizer=dict(type="AdamW", lr=LR, weight_decay=DECAY),
        constructor="LayerDecayConstructor",
        paramwise_cfg=dict(layer_decay_rate=RATE, **paramwise),
    )
    groups = build_optim_wrapper(model, options).optimizer.param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def steps_to_head(name: str, depths: list[int]) -> int:
    """Layers from a parameter to the head, from its name alone."""
    if not (match := re.match(r"backbone\.model\.(stem|norm|stages\.(\d+)\.(downsample|norm|blocks\.(\d+)))\.", name)):
        return 0
    whole, stage, part, block = match.groups()
    if whole in ("stem", "norm"):
        return sum(depths) + 1 if whole == "stem" else 1
    before = sum(depths[: int(stage)])
    position = before + (int(block) if block else 0 if part == "downsample" else depths[int(stage)] - 1)
    return sum(depths) - position


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("framework", ["mmpretrain", "mmdet", "mmseg"])
def test_rates_fall_towards_the_image(framework, name):
    model = network(framework, model=name)
    depths = [len(stage.blocks) for stage in model.backbone.model.stages]
    rates = settings(model, flat_decay_mult=0.0)
    for key, p in model.named_parameters():
        lr, decay = rates[key]
        assert lr == pytest.approx(LR * RATE ** steps_to_head(key, depths)), key
        spared = p.ndim == 1 or key.removeprefix("backbone.model.") in model.backbone.model.no_weight_decay()
        assert decay == (0 if spared else DECAY), key
    assert sorted({rate for rate, _ in rates.values()}) == pytest.approx(
        [LR * RATE**k for k in range(sum(depths) + 2)][::-1]
    )


def test_fewer_stages_leave_the_last_block_next_to_the_head():
    model = network("mmpretrain", model="test_van")
    model.backbone = backbones.mm.ZooBackbone("test_van", out_indices=(0, 1), out_norm=(False, True))
    rates = settings(model)
    assert rates["backbone.out_norms.1.weight"][0] == LR
    assert rates["backbone.model.stages.1.norm.weight"][0] == LR * RATE
    assert rates["backbone.model.stages.0.norm.weight"][0] == LR * RATE**2


def test_own_rules_multiply_and_frozen_parts_are_left_out():
    model = network("mmdet", model="test_illama", frozen_stages=0)
    keys = {"bbox_head": dict(lr_mult=10), "blocks.2": dict(lr_mult=0.1, decay_mult=0.3)}
    rates = settings(model, custom_keys=keys, norm_decay_mult=0.0)
    assert rates["bbox_head.retina_cls.weight"] == pytest.approx((LR * 10, DECAY))
    assert rates["backbone.model.stages.0.blocks.2.attn.qkv.weight"] == pytest.approx((LR * 0.1 * RATE**2, DECAY * 0.3))
    assert rates["backbone.model.stages.0.blocks.3.attn.qkv.weight"] == pytest.approx((LR * RATE, DECAY))
    assert not any(".stem." in key for key in rates)


def test_a_custom_key_decays_what_the_model_would_spare():
    model = network("mmpretrain", model="test_illama")
    rates = settings(model, custom_keys={"pos_embed": dict(decay_mult=0.5)})
    assert rates["backbone.model.stem.pos_embed"][1] == DECAY * 0.5
    assert rates["backbone.model.stem.cls_token"][1] == 0


@pytest.mark.parametrize("rate", [None, 0, 1.5, "0.7"])
def test_rates_that_make_no_sense_are_named(rate):
    options = dict(optimizer=dict(type="SGD", lr=LR), constructor="LayerDecayConstructor")
    with pytest.raises(ValueError, match=f"layer_decay_rate is {rate}: give a number above 0 and up to 1"):
        build_optim_wrapper(torch.nn.Linear(1, 1), dict(options, paramwise_cfg=dict(layer_decay_rate=rate)))
    with pytest.raises(ValueError, match="needs a ZooBackbone"):
        build_optim_wrapper(torch.nn.Linear(1, 1), dict(options, paramwise_cfg=dict(layer_decay_rate=0.7)))
    with pytest.raises(ValueError, match=r"optimizer=dict\(lr=\.\.\.\)"):
        options.update(optimizer=dict(type="Adam"), paramwise_cfg=dict(layer_decay_rate=0.7))
        build_optim_wrapper(torch.nn.Linear(1, 1), options)


def test_models_of_timm_have_rates_too():
    """ResNets name no parameters that are not decayed."""
    found = settings(network("mmpretrain", model="resnet18"))
    assert found["backbone.model.fc.weight"] == (LR, DECAY)
    assert found["backbone.model.conv1.weight"][0] < found["backbone.model.layer4.1.conv2.weight"][0] < LR
