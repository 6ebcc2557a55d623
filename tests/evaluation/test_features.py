"""Models by name, tag and checkpoint, and their features with and without the cache."""

import pytest
import timm
import torch
from PIL import Image

import backbones
from backbones.evaluation import features
from backbones.evaluation.encoder import load_encoder
from backbones.evaluation.features import extract_features
from backbones.evaluation.folder import open_folder

IMAGE_MODELS = [name for name in backbones.list_models("test_*", task="classification")]


@pytest.fixture
def data(tmp_path):
    for name in "ab":
        for i in range(3):
            path = tmp_path / "data" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((48 + i, 40), 90).convert("RGB").save(path)
    return tmp_path / "data"


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_level_of_every_model(name, data):
    encoder = load_encoder(f"{name}=random", (64, 96))
    split, _ = open_folder(data)
    images = encoder.read(split.files[:2])
    assert images.shape[1:] == (3, 64, 96) and encoder.pictures(images).shape == (2, 64, 96, 3)
    maps = encoder.model.forward_intermediates(images, norm=True, intermediates_only=True)
    assert len(maps) == len(encoder.widths)
    with torch.inference_mode():
        for level in {0, len(maps) - 1}:
            torch.testing.assert_close(encoder.maps(images, level - len(maps)), maps[level].permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match=rf"levels 0 to {len(maps) - 1} .* not {len(maps)}"):
        encoder.level(len(maps))


def test_cached_and_uncached_are_equal_and_computed_once(data, tmp_path, monkeypatch):
    train, val = open_folder(data)
    encoder = load_encoder("test_van.digits")
    direct = extract_features(encoder, train, 0)
    assert torch.equal(extract_features(encoder, train, 0, tmp_path / "cache"), direct)
    computed = []
    compute = features.compute_features
    monkeypatch.setattr(features, "compute_features", lambda *args: computed.append(args) or compute(*args))
    assert torch.equal(extract_features(encoder, train, 0, tmp_path / "cache"), direct) and not computed
    # another level, size, data, or weights are other features
    extract_features(encoder, train, 1, tmp_path / "cache")
    extract_features(load_encoder("test_van.digits", (32, 32)), train, 0, tmp_path / "cache")
    extract_features(encoder, val, 0, tmp_path / "cache")
    Image.new("RGB", (40, 40)).save(train.files[0])
    changed = extract_features(encoder, train, 0, tmp_path / "cache")
    assert len(computed) == 4 and not torch.equal(changed[0], direct[0]) and torch.equal(changed[1:], direct[1:])
    with torch.no_grad():
        encoder.model.stem.proj.weight.mul_(2)
    extract_features(encoder, train, 0, tmp_path / "cache")
    assert len(computed) == 5


def test_large_maps_are_averaged(data, monkeypatch):
    monkeypatch.setattr(features, "GRID", 4)
    encoder = load_encoder("test_van=random", (32, 64))
    split, _ = open_folder(data)
    with torch.inference_mode():
        whole = encoder.maps(encoder.read(split.files), 0)
    kept = extract_features(encoder, split, 0)
    assert whole.shape[1:3] == (8, 16) and kept.shape[1:3] == (4, 4)
    torch.testing.assert_close(kept[:, 1, 2], whole[:, 2:4, 8:12].mean((1, 2)))


def test_checkpoints_have_their_own_classes(tmp_path):
    model = backbones.create_model("test_van", num_classes=7)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    encoder = load_encoder(f"test_van={tmp_path / 'a.pth'}")
    assert encoder.model.num_classes == 7 and encoder.weights.endswith("a.pth")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in encoder.model.state_dict().items())


def test_timms_models_and_drawn_weights_that_are_always_the_same():
    state = torch.random.get_rng_state()
    hashes = {load_encoder("test_resnet.r160_in1k=random").weights_hash() for _ in range(2)}
    assert len(hashes) == 1 and torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(load_encoder("test_resnet=random").model, timm.models.ResNet)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("test_davit", "no weights are published of test_davit: .* test_davit=random"),
        ("test_van=nowhere.pth", "no checkpoint at 'nowhere.pth'"),
        ("van_b9", "no model is called 'van_b9'; did you mean"),
        ("test_ptdit=random", "is no encoder of images"),
    ],
)
def test_mistakes(spec, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(spec)
