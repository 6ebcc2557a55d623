"""The weights that come with the package: they load without network or cache, and are as good as it says."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import backbones
from backbones.metafiles import load_metafiles
from backbones.weights import fetch as fetching
from backbones.weights import find_weights, load_checkpoint
from backbones.weights.pretrained import read_metadata

FOLDER = Path(backbones.__file__).parent / "weights" / "digits"
TAG = "test_van.digits"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Any download fails; the cache folder must stay absent."""
    monkeypatch.setattr(fetching, "download", None)
    monkeypatch.setenv("BACKBONES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def printed() -> float:
    """The accuracy in the metafile."""
    (entry,) = (entry for entry in load_metafiles() if entry.model == TAG)
    return float(entry.accuracy("Digits", sources=["measured"]).split()[0])


@pytest.mark.parametrize("name", [TAG, "test_van"])
def test_it_loads_offline(name: str, no_network: Path) -> None:
    model = timm.create_model(name, pretrained=True)
    shipped = load_checkpoint(TAG)
    assert all(torch.equal(value, shipped[key]) for key, value in model.state_dict().items())
    assert timm.create_model(name, pretrained=True, num_classes=3, in_chans=1).get_classifier().out_features == 3
    assert not no_network.exists()


def test_it_is_small_and_says_what_it_is() -> None:
    path = find_weights(TAG)
    assert path.parent == FOLDER and path.stat().st_size < 2_000_000
    metadata = read_metadata(path)
    assert {key: metadata[key] for key in ("model", "tag", "license")} == {
        "model": "test_van",
        "tag": "digits",
        "license": "apache-2.0",
    }
    for text in (FOLDER / name for name in ("README.md", "config.py", "log.json")):
        assert not re.search(r"/(tmp|home|work|root|Users)/", text.read_text()), f"{text.name} names a machine's folder"


def test_the_log_ends_with_the_printed_accuracy(printed: float) -> None:
    last = json.loads((FOLDER / "log.json").read_text().splitlines()[-1])
    assert round(last["accuracy/top1"], 2) == printed
    assert f"{printed} % top-1" in (FOLDER / "README.md").read_text()


@pytest.mark.mm  # the split is MMEngine's dataset's
def test_it_reads_the_digits_held_out(no_network: Path, printed: float) -> None:
    from backbones.mm.training.digits import read_scans

    model = timm.create_model(TAG, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    scans = read_scans()["val"]
    assert len(scans) == 360
    pictures = torch.stack([transform(Image.fromarray(grey).convert("RGB")) for _, grey, _ in scans])
    with torch.inference_mode():
        predicted = model(pictures).argmax(1)
    right = (predicted == torch.tensor([digit for _, _, digit in scans])).float().mean().item()
    assert abs(100 * right - printed) <= 100 / 360  # one scan may lie on the line
