"""transformers: a model is the backbone of detectors and segmentors, and a classifier that ``Trainer`` trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    RTDetrConfig,
    RTDetrForObjectDetection,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
)

from tests.clients.test_segmentation_models import PYRAMIDS
from tests.test_models import TINY, images

pytestmark = pytest.mark.clients

SIZES = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 10, "num_labels": 3}
SIZES |= {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BOXES = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2


def backbone(name: str, *levels: int) -> TimmBackboneConfig:
    return TimmBackboneConfig(backbone=name, out_indices=list(levels), use_pretrained_backbone=False)


def detr(name: str) -> tuple[nn.Module, dict[str, Any]]:
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone(name, 3), **SIZES)), {"labels": BOXES}


def rt_detr(name: str) -> tuple[nn.Module, dict[str, Any]]:
    channels = timm.create_model(name, features_only=True, out_indices=(1, 2, 3)).feature_info.channels()
    options = {"encoder_in_channels": channels, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3}
    cfg = RTDetrConfig(backbone_config=backbone(name, 1, 2, 3), num_denoising=0, **options, **SIZES)
    return RTDetrForObjectDetection(cfg), {"labels": BOXES}


def mask2former(name: str) -> tuple[nn.Module, dict[str, Any]]:
    options = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    options |= {"dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
    options |= {"num_queries": 10, "num_labels": 3, "train_num_points": 64}
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=backbone(name, 0, 1, 2, 3), **options)
    )
    return model, {"mask_labels": [torch.ones(1, 64, 96)] * 2, "class_labels": [torch.tensor([1])] * 2}


@pytest.mark.parametrize("build", [detr, rt_detr, mask2former], ids=lambda build: build.__name__)
@pytest.mark.parametrize("name", PYRAMIDS)
def test_detectors_and_segmentors(name: str, build: Callable) -> None:
    """The model's gradient comes through all of it, and its maps are those of timm's interface."""
    torch.manual_seed(0)
    model, labels = build(name)
    (inner,) = [m for m in model.modules() if isinstance(m, FeatureGetterNet)]
    maps: list[list[Tensor]] = []
    handle = inner.register_forward_hook(lambda module, args, output: maps.append(output))
    loss = model.train()(images(), **labels).loss
    handle.remove()
    loss.backward()
    assert loss.isfinite()
    # DETR trains from the second level up, as its paper does
    last = [p.grad for p in inner.model.stages[3].parameters() if p.requires_grad]
    assert last and all(g is not None and g.isfinite().all() for g in last)
    model.eval()
    with torch.no_grad():
        for found, expected in zip(maps[0], inner.train()(images()), strict=True):
            assert found.shape == expected.shape


@pytest.mark.parametrize("name", PYRAMIDS)
def test_maps_are_the_models(name: str) -> None:
    found = AutoBackbone.from_config(backbone(name, 1, 3)).eval()
    model = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    model.load_state_dict(found._backbone.state_dict())
    with torch.no_grad():
        maps = found(images()).feature_maps
        expected = model(images())
    assert found.channels == model.feature_info.channels()
    for y, z in zip(maps, expected, strict=True):
        torch.testing.assert_close(y, z)


@pytest.mark.parametrize("name", TINY)
def test_trainer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=7))
    side = model.timm_model.pretrained_cfg["input_size"][-1]
    data = [{"pixel_values": torch.randn(3, side, side), "labels": i % 7} for i in range(8)]
    before = {key: p.clone() for key, p in model.named_parameters()}
    options = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True}
    options |= {"learning_rate": 0.01}
    settings = TrainingArguments(str(tmp_path), report_to=[], save_strategy="no", weight_decay=0.1, **options)
    Trainer(model, settings, train_dataset=data).train()
    assert not [key for key, p in model.named_parameters() if torch.equal(p, before[key])]
    model.save_pretrained(tmp_path)
    again = TimmWrapperForImageClassification.from_pretrained(tmp_path).eval()
    x = torch.stack([row["pixel_values"] for row in data])
    with torch.no_grad():
        logits = again(x).logits
        torch.testing.assert_close(logits, model.eval()(x).logits)
        torch.testing.assert_close(logits, model.timm_model(x))
