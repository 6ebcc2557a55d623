"""Prediction from a config and checkpoint, and from a model's name."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image

import backbones
from backbones.cli import predict
from backbones.mm.training import run
from backbones.mm.training.digits import read_scans

ROOT = Path(__file__).resolve().parents[2]
DETECTION = str(ROOT / "configs/litv2/detection/litv2-test_mask-rcnn-fpn_1xb8-400i_digits-256x192.py")
SEGMENTATION = str(ROOT / "configs/van/segmentation/van-test_semfpn_1xb8-600i_digits-256x192.py")
CONFIG = str(ROOT / "configs/van/classification/van-test_1xb32-20e_digits-64px.py")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((60 + i, 48), 80).convert("RGB").save(folder / f"{i}.jpg")
    return folder


def save_untrained(config: str, path: Path, **meta) -> Path:
    cfg = run.load_config(config)
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": meta}}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return save_untrained(CONFIG, tmp_path / "epoch_1.pth", classes=tuple("abcdefghij"))


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
    scores = predict.run(predict.load_mm(CONFIG, str(checkpoint), "cpu").probabilities, predict.list_images(photos), 2)
    model = timm.create_model("test_van", num_classes=10).eval()
    model.load_state_dict(backbones.weights.convert_state_dict(torch.load(checkpoint), model))
    for file, score in zip(predict.list_images(photos), scores):
        image = Image.open(file).resize((64, 64), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
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
    assert predict.main([str(photos / "*.jpg"), "--model", "test_davit", "--out-dir", str(tmp_path)]) == 0
    top = json.loads((tmp_path / "predictions.json").read_text())["predictions"][0]["top"]
    assert len(top) == 5 and all(any(c.isalpha() for c in t["class"]) for t in top)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--model", "test_davit"], "no image at 'photos'"),
        (["a.png", "--model", "van_b9"], "van_b"),
        (["a.png", "--model", "test_davit"], "test_davit"),  # has no published weights
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        predict.main(arguments)


def test_model_and_config_exclude_each_other(capsys):
    for arguments in (
        [],
        ["--model", "test_davit", "--config", "a.py"],
        ["--config", "a.py"],
        ["--checkpoint", "a.pth"],
    ):
        with pytest.raises(SystemExit):
            predict.main(["a.png", *arguments])
        assert "give either --model" in capsys.readouterr().err


def odd_files(folder: Path, scan: Image.Image) -> None:
    """One grey scan as files whose modes libraries read differently; the same whoever looks at them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.asarray(scan)
    Image.fromarray(values.astype(np.uint16) * 257).save(folder / "16-bit.png")
    Image.fromarray(values.astype(np.int32)).save(folder / "32-bit.tif")
    Image.fromarray(values.astype(np.float32) / 255).save(folder / "float.tif")
    scan.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    over_white = Image.merge("LA", (Image.new("L", scan.size, 0), scan.point(lambda v: 255 - v)))
    Image.merge("LA", (scan, Image.new("L", scan.size, 255))).save(folder / "opaque.png")
    over_white.save(folder / "transparent.png")
    scan.save(folder / "plain.png")
    palette = scan.point(lambda v: 255 - v).convert("P")
    palette.putpalette([255 - v // 3 for v in range(3 * 256)])
    palette.save(folder / "palette.png")
    black = scan.point(lambda v: 255 - v)
    Image.merge("CMYK", [Image.new("L", scan.size, 0)] * 3 + [black]).save(folder / "cmyk.tif")


@pytest.mark.mm
def test_one_image_has_one_answer(tmp_path):
    """By a model's name and by config and checkpoint, and whatever the file's mode is."""
    digits = ROOT / "backbones/weights/digits"
    (tmp_path / "scans").mkdir()
    odd_files(tmp_path / "scans", Image.fromarray(next(scan for _, scan, digit in read_scans()["val"] if digit == 7)))
    by_name, _ = predict.load_timm("test_van.digits", "cpu")
    by_config = predict.load_mm(str(digits / "config.py"), str(digits / "test_van.safetensors"), "cpu").probabilities
    files = predict.list_images(tmp_path / "scans")
    answers = [predict.run(predictor, files) for predictor in (by_name, by_config)]
    torch.testing.assert_close(*answers, atol=1e-3, rtol=0)
    for row in answers[0]:
        torch.testing.assert_close(row, answers[0][0], atol=1e-3, rtol=0)
    assert answers[0].argmax(1).tolist() == [7] * len(files) and len(files) == 9


def test_results_are_kept_when_prediction_stops(photos, offline, tmp_path, monkeypatch):
    load = predict.load_timm

    def load_and_fail(*arguments):
        predictor, names = load(*arguments)

        def fail_at_the_last(files):
            if files[0].endswith("2.jpg"):
                raise RuntimeError("out of memory")
            return predictor(files)

        return fail_at_the_last, names

    monkeypatch.setattr(predict, "load_timm", load_and_fail)
    (photos / "0a.png").touch()
    with pytest.raises(RuntimeError, match="out of memory"):
        predict.main([str(photos), "--model", "test_van", "--out-dir", str(tmp_path), "--batch-size", "1"])
    report = json.loads((tmp_path / "predictions.json").read_text())
    assert [Path(entry["file"]).name for entry in report["predictions"]] == ["0.jpg", "1.jpg"]
    assert [Path(file).name for file in report["skipped"]] == ["0a.png"]


@pytest.mark.mm
@pytest.mark.parametrize(("classes", "mode"), [(256, "L"), (300, "I;16")])
def test_label_maps_hold_every_class(tmp_path, classes, mode):
    labels = torch.tensor([[[0, classes - 1]]])
    sample = BaseDataElement(pred_sem_seg=BaseDataElement(data=labels))
    names = [str(i) for i in range(classes)]
    entry = predict.describe_sample(sample, names, 0.3, tmp_path / "a.png")
    assert entry["shares"] == {"0": 0.5, names[-1]: 0.5}
    with Image.open(tmp_path / "a.png") as written:
        assert written.mode == mode and np.array(written).tolist() == labels[0].tolist()


# Boxes, masks, segmentation -------------------------------------------------------------------------------------------


@pytest.fixture
def mixed_sizes(photos):
    """Photographs of several sizes, below a folder, one of them a second time under another ending, one broken."""
    (photos / "below").mkdir()
    Image.effect_noise((200, 90), 80).convert("RGB").save(photos / "below" / "1.jpg")
    Image.effect_noise((61, 48), 80).convert("RGB").save(photos / "1.png")
    (photos / "empty.png").touch()
    return photos


PICTURES = ["0.jpg.png", "1.jpg.png", "1.png.png", "2.jpg.png", "below/1.jpg.png"]


@pytest.mark.mm
def test_boxes_and_masks_are_drawn(mixed_sizes, tmp_path, capsys):
    from pycocotools.mask import decode

    classes = tuple("abcdefghij")
    checkpoint = save_untrained(DETECTION, tmp_path / "iter_1.pth", classes=classes)
    arguments = [str(mixed_sizes), "--config", DETECTION, "--checkpoint", str(checkpoint)]
    results = {}
    for threshold in ("0.05", "0.11"):  # of ten classes and background, an untrained model gives each a tenth
        out = tmp_path / threshold
        assert predict.main([*arguments, "--out-dir", str(out), "--score-thr", threshold]) == 1
        report = json.loads((out / "predictions.json").read_text())
        assert [Path(file).name for file in report["skipped"]] == ["empty.png"]
        assert [str(p.relative_to(out / "pictures")) for p in sorted(out.rglob("pictures/**/*.png"))] == PICTURES
        results[threshold] = report["predictions"]
    found = [instance for entry in results["0.05"] for instance in entry["instances"]]
    kept = [instance for entry in results["0.11"] for instance in entry["instances"]]
    assert len(found) > 5 and kept == [instance for instance in found if instance["score"] > 0.11]
    for entry in results["0.05"]:
        with (
            Image.open(entry["file"]) as image,
            Image.open(
                tmp_path / "0.05" / "pictures" / f"{Path(entry['file']).relative_to(mixed_sizes)}.png"
            ) as picture,
        ):
            assert picture.size == image.size
            changed = (torch.tensor(list(image.convert("RGB").getdata())) - torch.tensor(list(picture.getdata()))).abs()
            assert bool(entry["instances"]) == bool((changed > 40).any())
            for instance in entry["instances"]:
                x0, y0, x1, y1 = instance["box"]
                assert 0 <= x0 <= x1 <= image.width and 0 <= y0 <= y1 <= image.height
                assert instance["class"] in classes and decode(instance["mask"]).shape == image.size[::-1]
    assert (tmp_path / "0.05" / "predictions.png").stat().st_size > 5000
    assert "skipped" in capsys.readouterr().err


@pytest.mark.mm
def test_segmentation_is_drawn(mixed_sizes, tmp_path):
    classes = ("background", *"abcdefghij")
    palette = [(20 * i, 255 - 20 * i, 100) for i in range(11)]
    checkpoint = save_untrained(SEGMENTATION, tmp_path / "iter_1.pth", classes=classes, palette=palette)
    out = tmp_path / "out"
    arguments = [str(mixed_sizes), "--config", SEGMENTATION, "--checkpoint", str(checkpoint), "--out-dir", str(out)]
    assert predict.main(arguments) == 1
    for entry, name in zip(json.loads((out / "predictions.json").read_text())["predictions"], PICTURES):
        assert entry["map"] == str(out / "maps" / name)
        with Image.open(entry["file"]) as image, Image.open(entry["map"]) as labels:
            assert labels.size == image.size
            counts = {classes[value]: count / (image.width * image.height) for count, value in labels.getcolors()}
            assert entry["shares"] == pytest.approx(counts, abs=1e-4)
            with Image.open(out / "pictures" / name) as picture:
                assert picture.size == image.size
    assert (out / "predictions.png").exists()


@pytest.mark.mm
def test_a_generator_and_half_a_config(photos, tmp_path):
    (tmp_path / "half.py").write_text("train_cfg = dict(max_epochs=1)")
    for config, message in (
        ("ptdit-test_1xb128-2k_digits-8px", "of a generator, which `backbones sample` draws with"),
        (str(tmp_path / "half.py"), "half.py has no model.backbone"),
    ):
        with pytest.raises(SystemExit, match=message):
            predict.main([str(photos), "--config", config, "--checkpoint", "a.pth", "--out-dir", str(tmp_path / "out")])


@pytest.mark.mm
def test_weights_that_are_no_numbers(photos, checkpoint, tmp_path):
    content = torch.load(checkpoint)
    content["state_dict"] = {k: v * math.nan if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    torch.save(content, checkpoint)
    with pytest.raises(SystemExit, match="are not finite: its weights are damaged"):
        predict.main(
            [str(photos), "--config", CONFIG, "--checkpoint", str(checkpoint), "--out-dir", str(tmp_path / "out")]
        )


@pytest.mark.mm
def test_checkpoint_without_class_names(photos, tmp_path):
    checkpoint = save_untrained(SEGMENTATION, tmp_path / "a.pth")
    with pytest.raises(SystemExit, match="error: .*a.pth: it names no classes"):
        predict.main([str(photos), "--config", SEGMENTATION, "--checkpoint", str(checkpoint)])
