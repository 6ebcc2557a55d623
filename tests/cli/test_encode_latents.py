"""Images become latents that LatentImages reads."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.cli import encode_latents
from backbones.diffusion import Autoencoder
from backbones.mm.training.diffusion import LatentImages
from tests.cli.test_predict import odd_files
from tests.tiny_encoders import write_autoencoder

pytestmark = pytest.mark.mm


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return write_autoencoder(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "images/train/.ipynb_checkpoints").mkdir()  # hidden folders are no classes
    return tmp_path / "images"


def encode(images, autoencoder, out, *options):
    command = [str(images), "--autoencoder", str(autoencoder), "--out", str(out), "--device", "cpu"]
    encode_latents.main([*command, "--size", "16", "--batch-size", "2", *options])


def test_latents_are_those_of_the_images(images, autoencoder, tmp_path):
    encode(images, autoencoder, tmp_path / "latents")
    assert json.loads((tmp_path / "latents" / "latents.json").read_text())["classes"] == ["cat", "dog"]
    train = LatentImages(str(tmp_path / "latents"), "train", test_mode=True)
    val = LatentImages(str(tmp_path / "latents"), "val", test_mode=True)
    assert len(train) == 2 * 3 * 2 and len(val) == 2 * 2  # training images are there mirrored too

    image = Image.open(images / "val" / "dog" / "1.png").resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    mean, std = Autoencoder(autoencoder).encode(pixels)
    assert val[3]["data_samples"].gt_label.item() == 1 and val[3]["inputs"].shape == (4, 8, 8)
    torch.testing.assert_close(val[3]["inputs"], mean[0], rtol=1e-2, atol=1e-3)  # stored in half precision
    stored = torch.from_numpy(np.load(tmp_path / "latents" / "val" / "dog.npy")[1]).float()
    torch.testing.assert_close(stored[4:], std[0], rtol=1e-2, atol=1e-3)


def test_modes_of_images_do_not_matter(autoencoder, tmp_path):
    gradient = Image.fromarray(np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8)
    for split in ("train", "val"):
        (tmp_path / "images" / split / "scan").mkdir(parents=True)
        odd_files(tmp_path / "images" / split / "scan", gradient)
    encode(tmp_path / "images", autoencoder, tmp_path / "latents")
    latents = np.load(tmp_path / "latents/val/scan.npy")
    assert len(latents) == 9 and np.ptp(latents[0]) > 0.1
    for other in latents[1:]:
        np.testing.assert_allclose(other, latents[0], atol=1e-3)


def test_an_interrupted_run_goes_on(images, autoencoder, tmp_path, monkeypatch):
    out = tmp_path / "latents"
    encode(images, autoencoder, out)
    kept, redone = out / "train" / "cat.npy", out / "train" / "dog.npy"
    before = redone.read_bytes()
    kept.write_bytes(b"as it was")
    redone.unlink()
    encode(images, autoencoder, out)
    assert kept.read_bytes() == b"as it was" and redone.read_bytes() == before
    assert sorted(p.name for p in out.glob("*/*")) == ["cat.npy", "cat.npy", "dog.npy", "dog.npy"]


def test_mistakes(images, autoencoder, tmp_path):
    out = tmp_path / "latents"
    with pytest.raises(SystemExit, match="error: --size 17: must be a multiple of the autoencoder's stride, 2"):
        encode(images, autoencoder, out, "--size", "17")
    with pytest.raises(SystemExit, match="error: no classes in"):
        encode(images / "train", autoencoder, out)
    with pytest.raises(SystemExit, match="error: .* neither vae/config.json"):
        encode(images, images, out)
    (images / "val" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"error: 1 of 10 images cannot be read, remove or replace:\n.*empty file"):
        encode(images, autoencoder, out)
    (images / "val" / "dog" / "1.png").unlink()
    encode(images, autoencoder, out)
    with pytest.raises(SystemExit, match="latents of another size"):
        encode(images, autoencoder, out, "--size", "20")
    (images / "val" / "dog").rename(images / "val" / "dogs")
    with pytest.raises(SystemExit, match=r"only one of them has \['dog', 'dogs'\]"):
        encode(images, autoencoder, out)
