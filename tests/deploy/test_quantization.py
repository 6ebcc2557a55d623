"""int8 files: as accurate on digits, what stays float, and what a mistake leaves behind.

test_export.py has that they are near the model, for every family.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from backbones.cli import check_export
from backbones.cli import export as export_command
from backbones.deploy import FORMATS, ExportError, Preprocessing, export, load_export
from backbones.deploy.quantization import calibration_images, quantize
from backbones.images import read_image
from tests.deploy.cases import int8_layers
from tests.deploy.test_export import Mean
from tools import int8_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Tensor]:
    """Folders of scans to calibrate with and to test on, and the labels of these."""
    scans, labels = load_digits(return_X_y=True)
    root = tmp_path_factory.mktemp("digits")
    for i, scan in enumerate(scans):
        folder = root / ("test" if i % 5 == 0 else "train")
        folder.mkdir(exist_ok=True)
        Image.fromarray((scan.reshape(8, 8) * (255 / 16)).round().astype("uint8")).save(folder / f"{i:04}.png")
    return root / "train", root / "test", torch.from_numpy(labels[::5])


OURS = """
import sys, torch
from backbones.deploy import load_export
torch.save(load_export(sys.argv[1])(torch.ones(1, 3, 64, 64))[0], sys.argv[2])
"""
PYTORCHS = """
import sys, torch, torch.ao.quantization.fx._decomposed
run = torch.export.load(sys.argv[1]).module(check_guards=False)
torch.save(run(torch.ones(1, 3, 64, 64)).detach(), sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["static", "dynamic"])
def test_a_trained_model_stays_as_good(
    ranges: str, digits: tuple[Path, Path, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Within one point of top-1 in each format, by commands alone, and smaller where it is not all structure."""
    train, test, labels = digits
    int8 = str(train) if ranges == "static" else "dynamic"
    formats = [format for format in FORMATS if ranges == "static" or format != "pt2"]  # torchao takes longest
    arguments = ["test_van.digits", "--format", *formats, "--out", str(tmp_path), "--int8", int8]
    arguments += ["--size", "64x64"]  # which is written faster
    assert export_command.main([*arguments, "--int8-images", "32"]) == 0
    assert re.search(r"int8 \d+ x 64 x 64 differs by", capsys.readouterr().out)
    model = export_command.load_source("test_van.digits").model
    x = torch.stack(calibration_images(test, Preprocessing.of_config(model.pretrained_cfg), limit=len(labels)))
    with torch.no_grad():
        expected = 100 * (model(x).argmax(1) == labels).double().mean()
    assert expected > 95
    for format in formats:
        loaded = load_export(tmp_path / f"test_van.digits_int8{FORMATS[format].suffix}")
        top1 = 100 * (torch.cat([loaded(part)[0] for part in x.split(60)]).argmax(1) == labels).double().mean()
        assert abs(top1 - expected) <= 1, format
        assert loaded.metadata["int8"]["ranges"] == ranges
    assert check_export.main([str(tmp_path / "test_van.digits_int8.onnx"), "--images", str(test / "000*.png")]) == 0
    assert "same top class" in capsys.readouterr().out
    if "pt2" in formats:
        path = tmp_path / "test_van.digits_int8.pt2"
        for code in (OURS, PYTORCHS):  # without what this process has imported
            subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "y.pt")], check=True)
            torch.testing.assert_close(torch.load(tmp_path / "y.pt"), loaded(torch.ones(1, 3, 64, 64))[0])


class TwoLayers(nn.Module):
    """Means of channels through two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.fc1, self.act, self.fc2 = Mean(), nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.mean(x))))


@pytest.fixture(scope="module")
def float_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of two layers, by format."""
    out = tmp_path_factory.mktemp("float")
    paths = export(TwoLayers().eval(), out, "two", list(FORMATS), img_size=(64, 96))
    return dict(zip(FORMATS, paths, strict=True))


@pytest.mark.parametrize("int8", ["static", "dynamic"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_family_keeps_layers_in_float(
    format: str, int8: str, float_files: dict[str, Path], crops: Tensor, tmp_path: Path
) -> None:
    source, found = float_files[format], []
    for patterns in ((), ("fc[1]",), ("fc*",)):
        target = tmp_path / source.name
        quantize(format, source, target, [crops] if int8 == "static" else None, patterns, (0, 2, 3))
        found.append(int8_layers(target))
    assert found == [2, 1, 0]


def test_files_name_the_layers_in_float(tmp_path: Path) -> None:
    model = TwoLayers().eval()
    model.int8_float_layers = ("fc[1]",)  # type: ignore[assignment]
    (path,) = export(model, tmp_path, "two", ["onnx"], int8="dynamic")
    assert load_export(path).metadata["int8"]["float_layers"] == ["fc[1]"] and int8_layers(path) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_fixed_batches(format: str, crops: Tensor, tmp_path: Path) -> None:
    options = {"img_size": (64, 96), "batch": 3, "dynamic_size": False, "int8": crops}
    (path,) = export(TwoLayers().eval(), tmp_path, "two", [format], **options)
    runtime = load_export(path)
    assert list(runtime.metadata["differences"]) == ["15 x 64 x 96"] and runtime.metadata["dynamic"] == []
    assert runtime(crops[:3])[0].shape == (3, 64)
    with pytest.raises(ExportError, match="a batch of 3 images is calibrated with as many or more, not 2"):
        export(TwoLayers().eval(), tmp_path / "out", "two", [format], **options | {"int8": crops[:2]})


def test_a_table_of_files(crops: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, int8 in (("two", None), ("two_int8", crops)):
        export(TwoLayers().eval(), tmp_path, name, ["onnx"], img_size=(64, 96), int8=int8)
    assert int8_table.main([str(tmp_path), "--batches", "1", "2", "--seconds", "0"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.endswith("| ms, batch 1 | ms, batch 2 |") and row.startswith("| two | onnx | static | ")
    assert row.count("%") == 2 and row.count("→") == 3


class Uneven(nn.Module):
    """A channel that is a thousand times as large as those that matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 16)
        with torch.no_grad():
            self.fc.weight[:, 3] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.fc(torch.cat([x, 1e3 + 1e3 * x[:, :1]], 1))


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_too_far_off_gets_no_name(format: str, crops: Tensor, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ExportError, match=r"int8 \w+ differs .*, more than \d+%: no file was written") as caught:
        export(Uneven().eval(), tmp_path, "uneven", [format], img_size=(64, 96), int8=crops)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["mine.txt"]


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("openvino", "nncf"), ("pt2", "torchao")])
def test_a_missing_quantizer_is_named_with_its_remedy(
    format: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"need {package}: pip install 'efficient-backbones\[export\]'"):
        export(TwoLayers(), tmp_path / "out", "two", [format], int8="dynamic")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8": "static"}, "int8 is 'dynamic' or calibration images, not 'static'"),
        ({"int8": "dynamic", "half": True}, "choose --half or --int8"),
        (
            {"int8": torch.zeros(2, 3, 32, 32)},
            "calibration images are 32 x 32, not 224 x 224",
        ),
        (
            {"int8": [torch.zeros(3, 224, 224), torch.zeros(3, 32, 40)], "dynamic_size": False},
            "calibration images are 32 x 40, not 224 x 224",
        ),
        ({"int8": [torch.zeros(3, 31, 640)]}, "a calibration image of 31 x 640 pixels is below 32 x 32"),
    ],
)
def test_mistakes_leave_nothing(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(TwoLayers(), tmp_path / "out", "two", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for i in range(5):
        Image.effect_noise((60 + i, 48), 80).convert("RGB").save(tmp_path / "photos" / "a" / f"{i}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8", "nowhere"], "no image at 'nowhere'"),
        (["--int8", "empty"], "no image at 'empty'"),
        (["--int8", "photos", "--half"], "choose --half or --int8"),
        (["--int8", "broken"], r"1 of 2 calibration images cannot be read, repair or remove them: broken/b\.jpg \("),
    ],
)
def test_a_command_that_cannot_calibrate_writes_nothing(
    options: list[str], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.jpg").write_bytes((photos / "a/0.jpg").read_bytes())
    Path("broken/b.jpg").write_bytes((photos / "a/0.jpg").read_bytes()[:300])
    with pytest.raises(SystemExit, match=message) as caught:
        export_command.main(["test_van.digits", "--out", "out", *options])
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.parametrize("rescale", [False, True])
def test_calibration_images_are_what_the_file_takes(rescale: bool, photos: Path) -> None:
    """Spread over the whole folder."""
    preprocessing = Preprocessing(input_size=(3, 32, 40), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with pytest.raises(ValueError, match="calibration needs one image or more, not 0"):
        calibration_images(photos, preprocessing, limit=0)
    found = torch.stack(calibration_images(photos, preprocessing, rescale=rescale, limit=3))
    assert found.shape == (3, 3, 32, 40) and (found.max() > 100) == rescale
    transform = preprocessing.transform(not rescale)
    for x, i in zip(found, (0, 2, 4), strict=True):
        assert torch.equal(x, transform(read_image(photos / "a" / f"{i}.jpg")))
