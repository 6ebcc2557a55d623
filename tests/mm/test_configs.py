"""Every config of the project: parses, builds, fits together, and says what it is."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from backbones.mm.training import run

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[2]
CLASSIFICATION = sorted(ROOT.glob("configs/*/classification/*.py"))


def ids(path: Path) -> str:
    return path.stem


def load(path: Path):
    cfg = run.load_config(path)
    init_default_scope(cfg.default_scope)
    cfg.model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    return cfg


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("path", CLASSIFICATION, ids=ids)
def test_model_and_name_agree(path):
    cfg = load(path)
    run._check_model(cfg.model)
    with torch.device("meta"):
        classifier = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, pretrained=False)))
    assert classifier.backbone.out_indices is None
    # configs/van/classification/van-b0_8xb128_in1k.py is of van_b0, for 8 devices with 128 images each
    name = cfg.model.backbone.model.split(".")[0]
    name = re.sub(r"^test_(.*)", r"\1_test", name)
    assert name.startswith(path.stem.split("_")[0].replace("-", "_"))
    devices, batch = map(int, re.search(r"_(\d+)xb(\d+)", path.stem).groups())
    assert cfg.train_dataloader.batch_size == batch
    if "auto_scale_lr" in cfg:
        assert cfg.auto_scale_lr.base_batch_size == devices * batch
    if epochs := re.search(r"-(\d+)e_", path.stem):
        assert cfg.train_cfg.max_epochs == int(epochs[1])


@pytest.mark.parametrize("path", CLASSIFICATION, ids=ids)
def test_docstring_tells_source_and_status(path):
    text = path.read_text()
    assert "Run:" in text
    if "in1k" in path.stem:
        assert re.search(r"Source: arXiv:\d{4}\.\d{5}.*\(paper: ([\d.]+ % top-1|not at hand)\)", text)
        assert "Here: not trained" in text or re.search(r"Here: [\d.]+ % top-1", text)


@pytest.mark.parametrize("path", CLASSIFICATION, ids=ids)
def test_pipelines_make_what_the_model_reads(path, photo):
    cfg = load(path)
    size = int(match[1]) if (match := re.search(r"-(\d+)px", path.stem)) else 224
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        pipeline = Compose(loader.dataset.pipeline)
        for _ in range(4):  # augmentation is random
            sample = pipeline(dict(img_path=photo, gt_label=1))
            assert sample["inputs"].shape == (3, size, size)
    preprocessor = MODELS.build(dict(cfg.model.data_preprocessor, type="ClsDataPreprocessor"))
    pixels = preprocessor(dict(inputs=[sample["inputs"]], data_samples=[sample["data_samples"]]))["inputs"]
    assert -3 < pixels.min() < pixels.max() < 3


FROM_SCRATCH = [p for p in CLASSIFICATION if p.stem.endswith("_in1k") and "-ft-" not in p.stem]


@pytest.mark.parametrize("path", FROM_SCRATCH, ids=ids)
def test_preprocessing_is_that_of_the_weights(path):
    """What timm does to an image for the published weights, the config that trains them does too."""
    cfg = load(path)
    expected = timm.get_pretrained_cfg(cfg.model.backbone.model)
    np.testing.assert_allclose(np.array(cfg.data_preprocessor.mean) / 255, expected.mean, atol=1e-3)
    np.testing.assert_allclose(np.array(cfg.data_preprocessor.std) / 255, expected.std, atol=1e-3)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == int(224 / expected.crop_pct)


@pytest.mark.parametrize("path", CLASSIFICATION, ids=ids)
def test_decay_spares_vectors(path):
    cfg = load(path)
    if "test" not in path.stem:  # the rule is the same for all sizes; the tiny one builds at once
        cfg.model.backbone.model = f"test_{path.parents[1].name}"
        cfg.model.backbone.pretrained = False
    cfg.model.backbone.pop("drop_path_rate", None)
    model = MODELS.build(cfg.model)
    names = {id(p): name for name, p in model.named_parameters()}
    options = cfg.optim_wrapper
    own_rules = options.paramwise_cfg.get("custom_keys", {})
    for group in build_optim_wrapper(model, options).optimizer.param_groups:
        for p in group["params"]:
            name = names[id(p)]
            rule = next((rule for key, rule in own_rules.items() if key in name), {})
            decay_mult = rule.get("decay_mult", float(p.ndim > 1))
            assert group["weight_decay"] == options.optimizer.weight_decay * decay_mult, name
            assert group["lr"] == pytest.approx(options.optimizer.lr * rule.get("lr_mult", 1)), name


def test_litv2_moves_its_offsets_slowly():
    """A hundredth of the rate for the weights, as the authors train them; their biases at the full rate."""
    cfg = load(ROOT / "configs/litv2/classification/litv2-s_8xb128_in1k.py")
    cfg.model.backbone.model = "test_litv2"
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    slow = {name for name, p in model.named_parameters() if rates[id(p)] == pytest.approx(1e-5)}
    assert slow == {f"backbone.model.stages.{i}.downsample.conv.offset.weight" for i in (1, 2, 3)}
