"""From a tag to a model with published weights: fetched, converted, cached; every step is the real one."""

import argparse
import io
import logging
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file

import backbones
from backbones.cli import convert
from backbones.weights import DownloadError, find_weights, load_checkpoint, pretrained_file
from backbones.weights import fetch as fetching
from backbones.weights.pretrained import addresses, read_metadata, save_weights
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input


def checkpoint(state_dict, entry="state_dict") -> bytes:
    """A file like the authors': with training arguments beside the weights."""
    buffer = io.BytesIO()
    torch.save({entry: state_dict, "epoch": 300, "args": argparse.Namespace(lr=1e-3)}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def reference():
    return load_reference("van_b0")


@pytest.fixture(scope="module")
def published(reference):
    return checkpoint(official_state_dict(reference))


@pytest.fixture
def mirror(server, home, published, monkeypatch):
    """A server that has the published file of van_b0.in1k under its published name."""
    server.files["van_tiny_754.pth.tar"] = published
    monkeypatch.setenv("BACKBONES_MIRROR", f"{server.url}/cut")
    return server


def logits(model, reference):
    with torch.inference_mode():
        return model.eval()(reference_input(reference))


def test_published_values_through_the_whole_path(mirror, home, reference):
    model = timm.create_model("van_b0.in1k", pretrained=True)
    assert_matches(logits(model, reference), reference["outputs"]["logits (B, num_classes)"])
    assert mirror.count("cut") == 3  # no converted file; the published one, continued once
    assert {path.name for path in home.rglob("*") if path.is_file()} - {"van_b0.in1k.safetensors.lock"} == {
        "van_b0.in1k.safetensors"
    }
    metadata = read_metadata(home / "van_b0.in1k.safetensors")
    assert {key: metadata[key] for key in ("model", "tag", "license", "layout")} == {
        "model": "van_b0",
        "tag": "in1k",
        "license": "apache-2.0",
        "layout": "official",
    }
    assert metadata["source"].endswith("van_tiny_754.pth.tar") and len(metadata["sha256"]) == 64


@pytest.mark.parametrize("name", ["nat_mini", "dinat_mini", "transnext_micro"])
def test_other_families_published_values_through_the_whole_path(server, home, monkeypatch, name):
    """Under the published name, in the authors' layout; their files are bare state dicts."""
    reference, tag = load_reference(name), f"{name}.in1k"
    buffer = io.BytesIO()
    torch.save(official_state_dict(reference), buffer)
    server.files[timm.get_pretrained_cfg(tag).url.rpartition("/")[2]] = buffer.getvalue()
    monkeypatch.setenv("BACKBONES_MIRROR", f"{server.url}/plain")
    model = timm.create_model(tag, pretrained=True)
    assert_matches(logits(model, reference), reference["outputs"]["logits (B, num_classes)"])
    assert read_metadata(home / f"{tag}.safetensors")["layout"] == "official"


def test_the_second_time_needs_no_network(mirror, monkeypatch):
    timm.create_model("van_b0.in1k", pretrained=True)
    asked = len(mirror.requests)
    monkeypatch.setattr(fetching, "download", None)
    model = timm.create_model("van_b0", pretrained=True, num_classes=10, in_chans=1)
    assert len(mirror.requests) == asked
    own = load_file(find_weights("van_b0"))
    assert torch.equal(model.stages[1].norm.weight, own["stages.1.norm.weight"])
    torch.testing.assert_close(
        model.stem.proj.weight, own["stem.proj.weight"].sum(1, keepdim=True)
    )  # timm's adaptation
    assert model.head.fc.out_features == 10
    assert "state_dict" not in model.pretrained_cfg


def test_features_only(mirror):
    model = timm.create_model("van_b0.in1k", pretrained=True, features_only=True, out_indices=(1, 3))
    own = load_file(find_weights("van_b0.in1k"))
    assert torch.equal(model.state_dict()["model.stages.1.norm.weight"], own["stages.1.norm.weight"])


def test_a_tag_and_an_address_are_checkpoints(mirror, published):
    by_tag = load_checkpoint("van_b0.in1k")
    mirror.files["x.pth"] = published
    by_address = load_checkpoint(f"{mirror.url}/plain/x.pth")["state_dict"]
    assert torch.equal(by_tag["stages.3.norm.bias"], by_address["norm4.bias"])
    with pytest.raises(FileNotFoundError, match="halonet_h0_256.*no pretrained tag"):
        load_checkpoint("halonet_h0_256")


def test_a_local_file_in_the_official_layout(tmp_path, reference, published):
    (tmp_path / "official.pth").write_bytes(published)
    model = timm.create_model(
        "van_b0", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "official.pth")}
    )
    assert_matches(logits(model, reference), reference["outputs"]["logits (B, num_classes)"])
    assert "state_dict" not in model.pretrained_cfg


ADAPTED = [{"num_classes": 7}, {"features_only": True}, {"num_classes": 7, "in_chans": 1}]


@pytest.mark.parametrize("options", ADAPTED, ids=str)
def test_a_file_that_lacks_a_stage_stops(tmp_path, options):
    """timm loads loosely as soon as something is adapted."""
    weights = backbones.create_model("test_van").state_dict()
    path, overlay = tmp_path / "part.pth", {"file": str(tmp_path / "part.pth")}
    torch.save({key: value for key, value in weights.items() if not key.startswith("stages.3.")}, path)
    with pytest.raises(
        ValueError, match=r"does not fit test_van: missing .*stages\.3\.downsample\.proj\.weight.* more"
    ):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    torch.save(weights | {"stages.3.blocks.9.norm1.weight": torch.ones(2), "head_dist.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"unknown to the model: stages\.3\.blocks\.9\.norm1\.weight$"):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    torch.save(weights | {"stages.2.norm.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"stages\.2\.norm\.weight has shape \[2\]"):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    torch.save(weights, path)
    timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay=overlay, **options)


def test_what_stands_behind_the_last_feature_may_be_missing(tmp_path):
    model = timm.create_model("test_van", features_only=True, out_indices=(0, 2))
    torch.save(model.state_dict(), tmp_path / "features.pth")
    overlay = {"file": str(tmp_path / "features.pth")}
    again = timm.create_model(
        "test_van", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, out_indices=(0, 2)
    )
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="missing from the checkpoint: stages.3"):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)


def test_a_cache_folder_is_a_mirror(mirror, home, tmp_path, monkeypatch, reference):
    timm.create_model("van_b0.in1k", pretrained=True)
    first = read_metadata(home / "van_b0.in1k.safetensors")
    monkeypatch.setenv("BACKBONES_MIRROR", str(home))
    monkeypatch.setenv("BACKBONES_HOME", str(tmp_path / "second"))
    model = timm.create_model("van_b0.in1k", pretrained=True)
    assert_matches(logits(model, reference), reference["outputs"]["logits (B, num_classes)"])
    assert read_metadata(tmp_path / "second" / "van_b0.in1k.safetensors") == first  # still says where it is from


def test_a_cached_file_of_another_address_is_replaced(server, home):
    for name, seed in (("a.pth", 0), ("b.pth", 1)):
        torch.manual_seed(seed)
        server.files[name] = checkpoint(backbones.create_model("test_van").state_dict(), "model")
    models = [
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay={"url": f"{server.url}/plain/{name}"})
        for name in ("a.pth", "b.pth", "a.pth")
    ]
    weights = [model.stem.proj.weight for model in models]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


def test_a_damaged_cached_file_is_replaced(mirror, home, reference):
    timm.create_model("van_b0.in1k", pretrained=True)
    path = home / "van_b0.in1k.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    model = timm.create_model("van_b0.in1k", pretrained=True)
    assert_matches(logits(model, reference), reference["outputs"]["logits (B, num_classes)"])


def test_written_files_have_the_permissions_of_any_file(tmp_path):
    (tmp_path / "any").touch()
    save_weights({"w": torch.ones(2)}, tmp_path / "w.safetensors", {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("change", ["missing", "mismatched"])
def test_a_file_that_does_not_fit_is_not_cached(server, home, change):
    state_dict = backbones.create_model("test_van").state_dict()
    if change == "missing":
        del state_dict["stem.proj.bias"]
    else:
        state_dict["stem.proj.bias"] = torch.zeros(5)
    server.files["a.pth"] = checkpoint(state_dict)
    with pytest.raises(ValueError, match="does not fit test_van.*stem.proj.bias"):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay={"url": f"{server.url}/plain/a.pth"})
    assert not list(home.glob("*.safetensors"))


def test_what_the_model_lacks_is_left_out_and_named(server, home, caplog):
    state_dict = backbones.create_model("test_van").state_dict() | {"head_dist.weight": torch.ones(2)}
    server.files["a.pth"] = checkpoint(state_dict)
    with caplog.at_level(logging.WARNING):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay={"url": f"{server.url}/plain/a.pth"})
    assert "head_dist.weight" in caplog.text


def test_malicious_file_is_refused(server, home, tmp_path):
    class Attack:
        def __reduce__(self):
            return open, (str(tmp_path / "trace"), "w")

    server.files["a.pth"] = checkpoint({"w": Attack()})
    with pytest.raises(ValueError, match=r"would use .*open"):
        timm.create_model("test_van", pretrained=True, pretrained_cfg_overlay={"url": f"{server.url}/plain/a.pth"})
    assert not (tmp_path / "trace").exists() and not list(home.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "page", "file"),
    [
        ("stvit_small", "https://drive.google.com/drive/folders/", "stvit-small-224.pth"),
        ("attnet_t2", "https://unioulu-my.sharepoint.com/", "AttNet_T2_*.pth"),  # the rest are epoch and accuracy
    ],
)
def test_weights_that_a_person_must_get_say_how(home, monkeypatch, name, page, file):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DownloadError) as caught:
        timm.create_model(name, pretrained=True)
    message = str(caught.value)
    assert page in message
    assert f"backbones convert {file} --model {name}.in1k --out {home}/{name}.in1k" in message


def test_a_file_got_by_hand_is_imported(home, tmp_path):
    """AttNet's, by the command of the message."""
    reference = load_reference("attnet_t1")
    (tmp_path / "AttNet_T1_best.pth").write_bytes(checkpoint(official_state_dict(reference), entry="model"))
    out = home / "attnet_t1.in1k.safetensors"
    assert convert.main([str(tmp_path / "AttNet_T1_best.pth"), "--model", "attnet_t1.in1k", "--out", str(out)]) == 0
    model = timm.create_model("attnet_t1.in1k", pretrained=True)
    assert_matches(logits(model, reference), reference["outputs"]["logits (B, num_classes)"])


def test_the_second_source_is_tried(server, home):
    server.files["a.pth"] = checkpoint(backbones.create_model("test_van", num_classes=1000).state_dict())
    cfg = timm.models.PretrainedCfg(
        hf_hub_id="a/b", hf_hub_filename="c.pth", url=f"{server.url}/plain/a.pth", tag="x", architecture="test_van"
    )
    assert addresses(cfg) == ["hf-hub:a/b#file=c.pth", cfg.url]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("down")))
        assert pretrained_file("test_van", cfg).name == "test_van.x.safetensors"


def test_no_weights():
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("halonet_h0_256", pretrained=True)


def test_every_address_is_well_formed():
    tags = [tag for tag in timm.list_models(pretrained=True) if tag.split(".")[0] in backbones.list_models()]
    assert {"van_b0.in1k", "stvit_large.in1k_384", "davit_tiny_window7_224.msft_in1k"} <= set(tags)
    for tag in tags:
        for address in addresses(timm.models.get_pretrained_cfg(tag)):
            parsed = fetching.Address.parse(address)
            assert (parsed.url.startswith("https://") and parsed.file) or parsed.url.startswith("hf-hub:"), tag


@pytest.mark.mm
@pytest.mark.parametrize("source", ["tag", "address"])
def test_config_that_names_pretrained_weights(mirror, reference, published, source):
    from mmengine.registry import MODELS

    import backbones.mm  # noqa: F401

    mirror.files["x.pth"] = published
    where = {"tag": "van_b0.in1k", "address": f"{mirror.url}/plain/x.pth"}[source]
    config = {"type": "ZooBackbone", "model": "van_b0", "out_indices": (0, 1, 2, 3)}
    model = MODELS.build(config | {"init_cfg": {"type": "Pretrained", "checkpoint": where}})
    model.init_weights()
    expected = timm.create_model("van_b0.in1k", pretrained=True).eval()
    with torch.inference_mode():
        maps = model.eval()(reference_input(reference))
        features = expected.forward_intermediates(reference_input(reference), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, features))
    assert_matches(logits(expected, reference), reference["outputs"]["logits (B, num_classes)"])
