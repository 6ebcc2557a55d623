"""The command that looks inside a model."""

import csv
import html
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import backbones
from backbones.cli import look
from tests.cli.test_predict import odd_files
from tests.tiny_encoders import awaken, write_autoencoder

OWN = {
    "test_stvit": "regions",
    "test_sgformer": "groups",
    "test_davit": "channels",
    "test_attnet": "kernels",
    "test_van": "gates",
}
GENERATOR = "ptdit-test_1xb128-2k_digits-8px"


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


def clicks(page: str) -> list[dict]:
    """What the page's script is given, or nothing."""
    found = re.search(r'<script type="application/json" id="click-data">(.*?)</script>', page)
    return json.loads(found[1]) if found else []


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
    if not has_attention:  # what is named instead is there
        instead = re.search(r"can be drawn; (.*?) show what it sees", page)[1].split(", ")
        assert OWN.get(name, "receptive") in instead
        assert set(instead) == {file.split("-")[0].split(".")[0] for file in kinds} - {"significance"}
    files = {file for image in clicks(page) for file in (image["file"], *(layer["file"] for layer in image["layers"]))}
    assert files == {f"click/{path.name}" for path in tmp_path.glob("click/*.png")} and bool(files) == has_attention
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


def test_kernels_of_every_layer(photos, tmp_path):
    """Red where a kernel is positive, blue where it is negative, one scale a channel for all images."""
    assert run("test_attnet=random", "--image", photos, "--out", tmp_path, "--only", "kernels") == 0
    model = backbones.create_model("test_attnet")
    layers = [name for name, module in model.named_modules() if type(module).__name__ == "AttentiveConv"]
    assert {path.stem for path in tmp_path.glob("*.png")} == {f"kernels-{name}" for name in layers}


def test_names_of_files_are_no_markup(photos, tmp_path):
    name = "</script><b>&.png"
    try:
        (tmp_path / name.replace("/", "")).write_bytes((photos / "0.png").read_bytes())
    except OSError:  # Windows
        name = "a&b.png"
        (tmp_path / name).write_bytes((photos / "0.png").read_bytes())
    name = name.replace("/", "")
    run("test_litv2=random", "--image", tmp_path / name, "--out", tmp_path / "out", "--only", "click")
    page = (tmp_path / "out/index.html").read_text()
    assert clicks(page)[0]["name"] == name and "<b>" not in page


# Generators -----------------------------------------------------------------------------------------------------------

PROXIES = {"window", "shifted window", "proxies among themselves", "proxies"}


def kinds_of(page: str) -> set[str]:
    return {layer["title"].partition(", ")[2] for image in clicks(page) for layer in image["layers"]}


def test_a_generator_with_noise_alone(tmp_path):
    assert run("test_ptdit=random", "--out", tmp_path) == 0
    page = (tmp_path / "index.html").read_text()
    assert kinds_of(page) == PROXIES and "Latents of 16x16: noise alone" in page
    assert {"receptive.png", "features.png", "heads.png"} <= set(re.findall(r'src="([^"]+)"', page))
    assert "nothing to show of: regions, groups, channels, kernels, gates, cam, rollout, objects" in page


def test_a_generator_of_latents_with_images(photos, tmp_path):
    vae = write_autoencoder(tmp_path / "vae")
    torch.save(awaken(backbones.create_model("test_ptdit", num_classes=7)).state_dict(), tmp_path / "it.pth")
    words = [f"test_ptdit={tmp_path / 'it.pth'}", "--image", photos, "--autoencoder", vae, "--label", 3, "--time", 200]
    assert run(*words, "--img-size", "40x48", "--out", tmp_path / "out") == 0
    page = (tmp_path / "out/index.html").read_text()
    assert kinds_of(page) == PROXIES and len(clicks(page)) == 2
    assert "Latents of 20x24 with noise of time 200 of 1000" in page
    with (tmp_path / "out/heads.csv").open() as file:
        importance = [float(row["importance"]) for row in csv.DictReader(file)]
    assert min(importance) >= 0 and max(importance) > 1e-4
    with Image.open(tmp_path / "out/click/image-0.png") as picture:
        assert picture.size == (48, 40)


@pytest.mark.mm
def test_a_generator_by_its_config(tmp_path):
    from mmengine.registry import MODELS, init_default_scope

    from backbones.configs import find_config
    from backbones.mm.training.run import load_config

    init_default_scope("mmpretrain")
    trainer = MODELS.build(load_config(str(find_config(GENERATOR))).model)
    torch.save({"state_dict": trainer.state_dict()}, tmp_path / "it.pth")
    Image.effect_noise((8, 8), 90).save(tmp_path / "digit.png")
    words = [f"{GENERATOR}={tmp_path / 'it.pth'}", "--image", tmp_path / "digit.png", "--label", 3]
    assert run(*words, "--only", "click", "attention", "--out", tmp_path / "out") == 0
    page = html.unescape((tmp_path / "out/index.html").read_text())
    assert kinds_of(page) == PROXIES and "Latents of 8x8 with noise of time 500" in page


def test_modes_of_images_do_not_matter(tmp_path):
    (tmp_path / "in").mkdir()
    gradient = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2
    odd_files(tmp_path / "in", Image.fromarray(gradient))
    found = {}
    for file in sorted((tmp_path / "in").iterdir()):
        run("test_van.digits", "--image", file, "--out", tmp_path / file.stem, "--only", "objects")
        found[file.name] = (tmp_path / file.stem / "objects.csv").read_text().split(",", 5)[5]
    assert len(found) == 9 and len(set(found.values())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test_van.digits", "--only", "attention"], "test_van.digits has no attention .* show what it sees"),
        (["test_davit=random", "--only", "heads", "--layers", "nowhere"], "no attention .* in layers of 'nowhere'"),
        (["van_b9"], "no model is called"),
        (["test_ptdit=random"], "reads latents of 4 channels: give --autoencoder"),
        (["test_ptdit"], "no weights are published of test_ptdit: name a checkpoint"),
        (["test_van.digits", "--label", 3, "--time", 20], "test_van.digits is no generator: --time, --label say"),
        ([f"{GENERATOR}=nowhere.pth"], "nowhere.pth"),
    ],
)
def test_mistakes_are_one_line(words, message, photos, tmp_path):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(*words, "--image", photos, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_needs_images(tmp_path):
    with pytest.raises(SystemExit, match="error: give --image"):
        run("test_van.digits", "--out", tmp_path / "out")


def test_bad_images_and_pixels_are_named(photos, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="broken.png: empty file"):
        run("test_van.digits", "--image", photos, tmp_path / "broken.png", "--out", tmp_path / "out")
    with pytest.raises(SystemExit, match="no image at"):
        run("test_van.digits", "--image", tmp_path / "nowhere", "--out", tmp_path / "out")
    with pytest.raises(SystemExit):
        run("test_van.digits", "--image", photos, "--pixel", 30, 40)
    assert "argument --pixel: must be a number, from 0 to 1, got 30" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("test_van.digits", "--image", photos, "--layers", "(")
    assert "argument --layers: '(' is no regular expression: missing )" in capsys.readouterr().err
