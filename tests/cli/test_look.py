"""The command that looks inside a model."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

import backbones
from backbones.cli import look
from tests.cli.test_predict import odd_files

OWN = {"test_stvit": "regions", "test_sgformer": "groups", "test_davit": "channels", "test_van": "gates"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A photograph-like scene, and another of another shape."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:90, :120] / 120
    for i, size in enumerate(((90, 120), (120, 70))):
        disc = np.hypot(y - 0.4, x - 0.5) < 0.2
        colours = np.stack([np.where(disc, 0.9, y), np.where(disc, 0.2, x), y * x], -1)
        image = Image.fromarray((255 * colours).astype(np.uint8)).resize(size[::-1])
        image.save(folder / f"{i}.png")
    return folder


def run(*words: object) -> int:
    return look.main([str(word) for word in words])


@pytest.mark.parametrize("name", backbones.list_models("test_*", task="classification"))
def test_every_model_at_an_odd_size(name, photos, tmp_path, capsys):
    assert run(f"{name}=random", "--image", photos, "--out", tmp_path, "--img-size", "50x66") == 0
    page = (tmp_path / "index.html").read_text()
    shown = set(re.findall(r'src="([^"]+)"', page))
    assert shown == {path.name for path in tmp_path.glob("*.png")}
    assert {"receptive.png", "features.png", "objects.png", "cam.png"} <= shown and "Random weights" in page
    for file in shown:
        with Image.open(tmp_path / file) as picture:
            assert min(picture.size) > 100 and np.ptp(np.asarray(picture.convert("L"))) > 100
    kinds = {file.split("-")[0] for file in shown}
    assert {kind for kind in OWN.values() if kind in kinds} == ({OWN[name]} if name in OWN else set())
    has_attention = any(file.startswith("attention-") for file in shown)
    assert has_attention == ("has no attention between pixels" not in page)
    assert (tmp_path / "heads.csv").exists() == has_attention
    if has_attention:
        with (tmp_path / "heads.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows and all(float(row["distance"]) >= 0 and np.isfinite(float(row["importance"])) for row in rows)
    with (tmp_path / "objects.csv").open() as file:
        for row in csv.DictReader(file):
            assert 0 <= float(row["left"]) < float(row["right"]) <= 66
            assert 0 <= float(row["top"]) < float(row["bottom"]) <= 50
    assert ("rollout" in kinds or "rollout.png" in shown) == (name == "test_illama")
    assert str(tmp_path / "index.html") in capsys.readouterr().out


def test_layers_sections_and_pixel(photos, tmp_path):
    options = ["--only", "attention", "--layers", "stages.2", "--pixel", 0.1, 0.9]
    assert run("test_litv2=random", "--image", photos / "0.png", "--out", tmp_path, *options) == 0
    pictures = [path.name for path in tmp_path.glob("*.png")]
    assert pictures and all("-stages.2." in name for name in pictures)


def test_modes_of_images_do_not_matter(tmp_path):
    (tmp_path / "in").mkdir()
    gradient = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2
    odd_files(tmp_path / "in", Image.fromarray(gradient))
    found = {}
    for file in sorted((tmp_path / "in").iterdir()):
        run("test_van.digits", "--image", file, "--out", tmp_path / file.stem, "--only", "objects")
        found[file.name] = (tmp_path / file.stem / "objects.csv").read_text().split(",", 5)[5]
    assert len(found) == 7 and len(set(found.values())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test_van.digits", "--only", "attention"], "test_van.digits has no attention .* show what it sees"),
        (["test_davit=random", "--only", "heads", "--layers", "nowhere"], "no attention .* in layers of 'nowhere'"),
        (["van_b9"], "no model is called"),
        (["test_ptdit=random"], "no encoder of images"),
    ],
)
def test_mistakes_are_one_line(words, message, photos, tmp_path):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(*words, "--image", photos, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_images_and_pixels_are_named(photos, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="broken.png: empty file"):
        run("test_van.digits", "--image", photos, tmp_path / "broken.png", "--out", tmp_path / "out")
    with pytest.raises(SystemExit, match="no image at"):
        run("test_van.digits", "--image", tmp_path / "nowhere", "--out", tmp_path / "out")
    with pytest.raises(SystemExit):
        run("test_van.digits", "--image", photos, "--pixel", 30, 40)
    assert "fractions of width and height" in capsys.readouterr().err
