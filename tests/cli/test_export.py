"""``backbones export`` and ``backbones check-export``: what a model's name, tag or checkpoint becomes."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import backbones
from backbones.cli import check_export, export
from backbones.deploy import Preprocessing, load_export
from tests.cli.test_predict import odd_files


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        Image.effect_noise((60 + i, 48), 80).convert("RGB").save(folder / f"{i}.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rescale", [False, True])
def test_a_tag_is_exported_and_checked(
    rescale: bool, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--rescale"] if rescale else []
    assert export.main(["test_van.digits", "--format", "pt2", "--out", str(tmp_path), *options]) == 0
    file = tmp_path / "test_van.digits.pt2"
    assert str(file) in capsys.readouterr().out
    metadata = load_export(file).metadata
    assert metadata["classes"] == [str(i) for i in range(10)] and metadata["license"] == "apache-2.0"
    assert check_export.main([str(file), "--images", str(photos)]) == 0
    table = capsys.readouterr().out
    assert "3 of 3 images have the same top class" in table
    row = next(line for line in table.splitlines() if line.startswith(str(photos / "0.jpg")))
    said = re.findall(r"\d \d+\.\d%", row)
    assert len(said) == 6 and said[:3] == said[3:]
    (tmp_path / "odd").mkdir()
    odd_files(tmp_path / "odd", Image.fromarray(np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4))
    assert check_export.main([str(file), "--images", str(tmp_path / "odd")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path / "odd") in line]
    assert len(lines) == 9 and len({tuple(re.findall(r"\d \d+\.\d%", line)) for line in lines}) == 1


@pytest.mark.slow
def test_a_file_of_one_size_is_checked_at_that_size(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["test_van.digits", "--format", "pt2", "--out", str(tmp_path), "--size", "48x80", "--batch", "2"]
    assert export.main(arguments) == 0
    file = tmp_path / "test_van.digits.pt2"
    assert load_export(file).metadata["input_size"] == [3, 48, 80]
    assert check_export.main([str(file), "--images", str(photos)]) == 0
    assert "3 of 3 images have the same top class" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_with_the_name_of_its_model(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = backbones.create_model("test_illama", num_classes=4)
    checkpoint = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), checkpoint)
    arguments = [str(checkpoint), "--model", "test_illama", "--format", "pt2", "--out", str(tmp_path)]
    assert export.main([*arguments, "--img-size", "64x96"]) == 0
    file = tmp_path / "mine.pt2"
    assert len(load_export(file).metadata["classes"]) == 4
    assert check_export.main([str(file), "--images", str(photos)]) == 0
    with torch.no_grad():
        model.head.fc.bias += 1
    save_file(model.state_dict(), checkpoint)
    with pytest.raises(SystemExit, match="made from other weights"):
        check_export.main([str(file), "--images", str(photos)])


@pytest.mark.mm
@pytest.mark.slow
def test_a_checkpoint_with_its_config(tmp_path: Path) -> None:
    """Preprocessing and classes come from the training."""
    from backbones.cli.predict import load_mm
    from tests.cli.test_predict import CONFIG, save_untrained

    checkpoint = save_untrained(CONFIG, tmp_path / "epoch_1.pth", classes=tuple("abcdefghij"))
    arguments = [str(checkpoint), "--config", CONFIG, "--format", "pt2", "--out", str(tmp_path)]
    assert export.main(arguments) == 0
    runtime = load_export(tmp_path / "epoch_1.pt2")
    assert runtime.metadata["classes"] == list("abcdefghij")
    Image.effect_noise((60, 48), 80).convert("RGB").save(tmp_path / "a.png")
    expected = load_mm(CONFIG, str(checkpoint), "cpu").probabilities([str(tmp_path / "a.png")])
    image = Preprocessing.of_config(runtime.metadata).transform()(Image.open(tmp_path / "a.png"))
    torch.testing.assert_close(runtime(image[None])[0].softmax(-1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.mm
def test_pipelines_that_have_no_name_in_timms_terms() -> None:
    from mmengine.config import Config

    from backbones.mm.preprocessing import preprocessing_of

    def preprocessing(steps: list[dict]) -> Any:
        settings = {"mean": [127.5] * 3, "std": [255.0] * 3}
        data = {"dataset": {"pipeline": steps}}
        cfg = {"default_scope": "mmpretrain", "model": {}, "data_preprocessor": settings, "test_dataloader": data}
        return preprocessing_of(Config(cfg), "a.py")

    steps = [{"type": "LoadImageFromFile"}, {"type": "ResizeEdge", "scale": 248}]
    crop = {"type": "CenterCrop", "crop_size": 224}
    found = preprocessing([*steps, crop])
    assert found.input_size == (3, 224, 224) and int(224 / found.crop_pct) == 248 and found.mean == (0.5,) * 3
    for wrong in (steps, [*steps, crop, {"type": "Grayscale"}]):
        with pytest.raises(ValueError, match=r"pipeline of a.py is neither"):
            preprocessing(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["van_b9"], "unknown model 'van_b9'; near names: van_b"),
        (["resnet18"], "resnet18 is timm's own model"),
        (["test_davit"], "test_davit has no published weights: give a checkpoint"),
        (["test_van.digits", "--img-size", "16"], "16 x 16 pixels are below 32 x 32"),
        (["test_van.digits", "--opset", "9"], "opset 9 cannot be written"),
        (["mine.pth"], "--model NAME, or the --config"),
        (["mine.pth", "--model", "test_van"], "mine.pth does not fit test_van: missing"),
        (["none.pth", "--model", "test_van"], "no checkpoint at 'none.pth'"),
        (["none.v2.safetensors"], "no checkpoint at 'none.v2.safetensors'"),
        (["."], r"no checkpoint at '\.'"),
        (["os:getcwd"], "os:getcwd is no model of this package"),
        (
            ["mine.pth", "--model", "test_van", "--config", "a.py"],
            "is of --model test_van or .* --config a.py: name one",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(backbones.create_model("test_davit").state_dict(), "mine.pth")
    with pytest.raises(SystemExit, match=f"error: .*{message}") as caught:
        export.main(arguments)
    assert "\n" not in str(caught.value)
    assert os.listdir() == ["mine.pth"]


def test_files_are_named_as_their_checkpoint() -> None:
    names = {"run.v1.pth": "run.v1", "a/epoch_20.pth": "epoch_20", "model.pth.tar": "model", ".best.pt": ".best"}
    assert {file: export.name_of(file) for file in names} == names


def test_check_of_what_is_no_export(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        check_export.main(["a.onnx", "--images", str(photos), "--model", "test_van"])
    assert "say what --source is: give it too" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no exported file"):
        check_export.main([str(tmp_path / "a.onnx"), "--images", str(photos)])
    with pytest.raises(SystemExit, match="no image at"):
        check_export.main([str(tmp_path / "a.onnx"), "--images", str(tmp_path / "none")])
    (tmp_path / "empty.png").touch()
    with pytest.raises(SystemExit, match="empty.png: empty file"):
        check_export.main([str(tmp_path / "a.onnx"), "--images", str(tmp_path)])
