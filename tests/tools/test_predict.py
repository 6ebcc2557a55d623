"""Prediction from a config and checkpoint, and from a model's name."""

import json
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import backbones
from backbones.mm import run
from tools import predict

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/van/classification/van-test_1xb32-20e_digits-64px.py")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((60 + i, 48), 80).convert("RGB").save(folder / f"{i}.jpg")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    init_default_scope("mmpretrain")
    model = MODELS.build(run.load_config(CONFIG).model)
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": tuple("abcdefghij")}}}, path)
    return path


@pytest.fixture
def offline(monkeypatch):
    """Random weights where published ones would be fetched."""
    create = backbones.create_model
    monkeypatch.setattr(backbones, "create_model", lambda name, pretrained, **kwargs: create(name, **kwargs))


@pytest.mark.mm
def test_config_and_checkpoint(photos, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    code = predict.main(
        [str(photos), "--config", CONFIG, "--checkpoint", str(checkpoint), "--out-dir", str(out), "--topk", "3"]
    )
    assert code == 0
    report = json.loads((out / "predictions.json").read_text())
    assert [Path(p["file"]).name for p in report["predictions"]] == ["0.jpg", "1.jpg", "2.jpg"] and report[
        "skipped"
    ] == {}
    for entry in report["predictions"]:
        probabilities = [t["probability"] for t in entry["top"]]
        assert len(probabilities) == 3 and probabilities == sorted(probabilities, reverse=True)
        assert {t["class"] for t in entry["top"]} < set("abcdefghij")
    assert (out / "predictions.png").read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert all(str(photos / f"{i}.jpg") in table for i in range(3)) and "top-3" in table and "top-4" not in table


@pytest.mark.mm
def test_probabilities_are_the_models(photos, checkpoint):
    """The path through MMPretrain equals preprocessing by hand and timm's model."""
    scores = predict.run(predict.load_mm(CONFIG, str(checkpoint), "cpu")[0], predict.list_images(photos), batch_size=2)
    model = timm.create_model("test_van", num_classes=10).eval()
    model.load_state_dict(backbones.weights.convert_state_dict(torch.load(checkpoint), model))
    for file, score in zip(predict.list_images(photos), scores):
        import cv2  # MMPretrain's reader: its JPEG decoding differs from PIL's in the last bit
        import numpy as np

        image = Image.fromarray(cv2.imread(file)).resize((64, 64), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            torch.testing.assert_close(model((pixels - 127.5) / 127.5).softmax(-1)[0], score)


def test_unreadable_files_are_skipped_and_reported(photos, offline, tmp_path, capsys):
    (photos / "empty.png").touch()
    (photos / "cut.jpg").write_bytes((photos / "0.jpg").read_bytes()[:300])
    Image.new("RGB", (20, 50)).save(photos / "small.png")
    code = predict.main([str(photos), "--model", "test_van", "--out-dir", str(tmp_path)])
    assert code == 1
    report = json.loads((tmp_path / "predictions.json").read_text())
    assert len(report["predictions"]) == 3
    assert sorted(Path(f).name for f in report["skipped"]) == ["cut.jpg", "empty.png", "small.png"]
    errors = capsys.readouterr().err
    assert f"skipped {photos / 'empty.png'}: empty file" in errors
    assert f"skipped {photos / 'small.png'}: 20x50 pixels; at least 32x32 are needed" in errors


def test_nothing_readable_is_no_crash(tmp_path, offline):
    (tmp_path / "empty.png").touch()
    assert predict.main([str(tmp_path / "empty.png"), "--model", "test_van", "--out-dir", str(tmp_path)]) == 1


def test_imagenet_classes_have_names(photos, offline, tmp_path):
    assert predict.main([str(photos / "*.jpg"), "--model", "test_van", "--out-dir", str(tmp_path)]) == 0
    top = json.loads((tmp_path / "predictions.json").read_text())["predictions"][0]["top"]
    assert len(top) == 5 and all(any(c.isalpha() for c in t["class"]) for t in top)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--model", "test_van"], "no image at 'photos'"),
        (["a.png", "--model", "van_b9"], "van_b"),
        (["a.png", "--model", "test_van"], "test_van"),  # has no published weights
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        predict.main(arguments)


def test_model_and_config_exclude_each_other(capsys):
    for arguments in ([], ["--model", "test_van", "--config", "a.py"], ["--config", "a.py"], ["--checkpoint", "a.pth"]):
        with pytest.raises(SystemExit):
            predict.main(["a.png", *arguments])
        assert "give either --model" in capsys.readouterr().err
