"""Exported files in place of the networks that they were made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.cli import export, test
from backbones.cli.predict import Trained, load_mm
from backbones.deploy.dense import detection_difference
from backbones.mm.training.exported import open_export, use_export
from tests.deploy.test_dense import RETINANET, SEGMENTATION, save_lively, shallow

CLASSIFIER = "van-test_1xb32-20e_digits-64px"


def write(config: str, folder: Path, *words: str) -> tuple[str, str]:
    """An untrained model's checkpoint, and its file."""
    checkpoint = save_lively(config, folder / "model.pth")
    content = torch.load(checkpoint)
    content["meta"]["dataset_meta"] = {"classes": [f"class {i}" for i in range(11)]}
    torch.save(content, checkpoint)
    assert export.main([str(checkpoint), "--config", config, "--out", str(folder), *words]) == 0
    return str(checkpoint), str(next(path for path in folder.glob("model.*") if path.suffix in (".onnx", ".pt2")))


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Five images of three sizes."""
    files = [str(tmp_path / f"{i}.png") for i in range(5)]
    for file, size in zip(files, [(90, 90), (90, 120), (90, 90), (101, 77), (120, 90)], strict=True):
        Image.effect_noise(size, 80).convert("RGB").save(file)
    return files


def predicted(trained: Trained, files: list[str]) -> list[dict[str, np.ndarray]]:
    """What a model predicts of all files at once, as arrays."""
    found = []
    with torch.no_grad():
        samples = trained(files)
    for sample in samples:
        if "pred_instances" in sample:
            found.append(dict(sample.pred_instances.numpy().items()))
        elif "pred_score" in sample:
            found.append({"score": sample.pred_score.numpy()})
        else:
            found.append({"labels": sample.pred_sem_seg.data.numpy(), "logits": sample.seg_logits.data.numpy()})
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "resize", "words"),
    [
        (CLASSIFIER, {}, ["--batch", "3", "--size", "64x64"]),
        (SEGMENTATION, {"scale": (96, 64)}, ["--format", "pt2", "--size", "64x96", "--batch", "2", "--rescale"]),
        (RETINANET, {"scale": (160, 96), "keep_ratio": True}, ["--format", "pt2", "--img-size", "96x160"]),
    ],
)
def test_a_file_predicts_what_its_network_does(
    config: str, resize: dict[str, Any], words: list[str], photos: list[str], tmp_path: Path
) -> None:
    """In a batch of several images, of several sizes, whatever batch the file has and whoever rescales."""
    config = config if config == CLASSIFIER else shallow(config, tmp_path / "tiny.py", **resize)
    checkpoint, file = write(config, tmp_path, *words)
    trained = load_mm(config, checkpoint, "cpu")
    expected = [sample for photo in photos for sample in predicted(trained, [photo])]  # none is padded for another
    runtime, names = open_export(file, trained.cfg)
    assert names.source == file and names.classes[:2] == ("class 0", "class 1")
    for parameter in trained.net.parameters():
        parameter.data.zero_()
    use_export(trained.net, runtime)
    found = predicted(trained, photos)
    assert len(found) == 5
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        if "bboxes" in theirs:  # those of nearly equal scores may change places
            pair = [
                [torch.from_numpy(y[name])[None] for name in ("bboxes", "scores", "labels")] for y in (theirs, mine)
            ]
            assert theirs["scores"].size and detection_difference(*pair) < 1e-3
            continue
        for name, value in theirs.items():
            assert value.size
            np.testing.assert_allclose(mine[name], value, atol=1e-3, rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_a_file_is_tested_as_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export.main(["test_van.digits", "--size", "64x64", "--out", "."]) == 0
    metrics = [
        test.main([CLASSIFIER, what, "--work-dir", what + "-run"])
        for what in ("test_van.digits", "test_van.digits.onnx")
    ]
    assert metrics[0] == pytest.approx(metrics[1]) and metrics[1]["accuracy/top1"] > 95
    assert json.loads(Path("test_van.digits.onnx-run/metrics.json").read_text()) == metrics[1]


@pytest.mark.slow
def test_files_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(config: str, file: str, message: str, *options: str) -> None:
        with pytest.raises(SystemExit, match=f"error: {message}"):
            test.main([config, file, *options])

    assert export.main(["test_van.digits", "--size", "64x96", "--format", "onnx", "pt2", "--out", "."]) == 0
    file = "test_van.digits.onnx"
    refused(CLASSIFIER, "none.onnx", "no exported file at 'none.onnx'")
    refused(CLASSIFIER, file, f"{file} takes 64 x 96 pixels, the config's images are 64 x 64: .* --size 64x64")
    mean = "data_preprocessor.mean=[1.0,2.0,3.0]"
    refused(CLASSIFIER, file, f"{file} was exported for images of mean .* the config's have", "--cfg-options", mean)
    torch.export.save(torch.export.load("test_van.digits.pt2"), "other.pt2")
    refused(CLASSIFIER, "other.pt2", "this .pt2 file was not written by `backbones export`")
    refused(SEGMENTATION, file, f"{file} is for classification, .*semfpn.* for segmentation")
