"""backbones convert: every family there and back, reports, comparison."""

import argparse
import json

import pytest
import timm
import torch

import backbones
from backbones.cli import convert
from backbones.weights import convert_checkpoint, read_checkpoint, restore_state_dict
from backbones.weights.pretrained import read_metadata
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

REFERENCES = {
    "van_b0": "van_b0",
    "litv2_s": "litv2_s",
    "litv2_s_detection_203x261": "litv2_s",
    "sgformer_s": "sgformer_s",
    "stvit_small": "stvit_small",
    "davit_tiny": "davit_tiny_window7_224",
    "illama_tiny": "illama_tiny",
}


def official(name: str) -> dict:
    """Shapes of the published entries, as the authors' code has them."""
    entries = load_reference(name)["state_dict"]
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for key, (shape, dtype) in entries.items()
    }


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("known", [True, False], ids=["names known", "by rules"])
def test_back_to_the_published_layout(name, known):
    published = official(name)
    with torch.device("meta"):
        model = backbones.create_model(REFERENCES[name])
    conversion = convert_checkpoint(published, model)
    names = (conversion.names, conversion.shapes) if known else (None, None)
    restored = restore_state_dict(conversion.weights, model, "official", *names)
    kept = {key: value.shape for key, value in published.items() if key not in conversion.dropped}
    assert {key: value.shape for key, value in restored.items()} == kept
    assert all(key.endswith("fold.weights") for key in conversion.dropped)  # constants of STViT


@pytest.mark.parametrize(
    ("ours", "theirs"), [("davit_tiny_window7_224", "davit_tiny"), ("halonet_h1_256", "halonet_h1")]
)
def test_back_to_timm(ours, theirs):
    with torch.device("meta"):
        model, original = timm.create_model(ours), timm.create_model(theirs)
    restored = restore_state_dict(model.state_dict(), model, "timm")
    assert {k: v.shape for k, v in restored.items()} == {k: v.shape for k, v in original.state_dict().items()}


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.parametrize(("ours", "theirs"), [("davit_tiny_window7_224", "DaViT"), ("van_b0", "VAN")])
def test_back_to_mmpretrain(ours, theirs):
    import mmpretrain.models

    with torch.device("meta"):
        model = timm.create_model(ours, num_classes=0)
    original = getattr(mmpretrain.models, theirs)("tiny")
    restored = restore_state_dict(model.state_dict(), model, "mmpretrain")
    assert {k: v.shape for k, v in restored.items()} == {k: v.shape for k, v in original.state_dict().items()}


@pytest.mark.parametrize("name", backbones.list_models("test_*"))
def test_values_survive_the_way_there_and_back(name):
    torch.manual_seed(0)
    model = backbones.create_model(name)
    for layout in model.checkpoint_layouts:
        restored = restore_state_dict(model.state_dict(), model, layout)
        assert len(restored) >= len(model.state_dict())  # more where an entry is made of several
        back = convert_checkpoint(restored, model)
        assert not back.fit.problems() and back.layout == layout
        assert all(torch.equal(back.weights[key], value) for key, value in model.state_dict().items())


def test_unknown_layout():
    model = backbones.create_model("test_van")
    with pytest.raises(ValueError, match="no layout 'timm'; it has official, mmpretrain"):
        restore_state_dict(model.state_dict(), model, "timm")


@pytest.fixture
def van_b0(tmp_path):
    path = tmp_path / "van_tiny_754.pth.tar"
    weights = official_state_dict(load_reference("van_b0"))
    torch.save({"state_dict": weights, "epoch": 1, "args": argparse.Namespace(lr=1)}, path)
    return path


def test_official_to_own_and_exactly_back(van_b0, tmp_path, capsys):
    own, back = tmp_path / "own.safetensors", tmp_path / "back.pth"
    assert convert.main([str(van_b0), "--model", "van_b0.in1k", "--out", str(own), "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "layout: official" in printed and "block1.0.layer_scale_1 -> stages.0.blocks.0.ls1.gamma" in printed
    assert "missing: 0" in printed and "runs: output [1, 1000]" in printed
    metadata = read_metadata(own)
    assert metadata["source"] == "van_tiny_754.pth.tar" and metadata["license"] == "apache-2.0"
    assert metadata["model"] == "van_b0" and metadata["tag"] == "in1k" and len(metadata["sha256"]) == 64
    assert len(json.loads(metadata["names"])) == 402

    reference = load_reference("van_b0")
    model = backbones.create_model("van_b0", pretrained=True, pretrained_cfg_overlay={"file": str(own)}).eval()
    with torch.inference_mode():
        assert_matches(model(reference_input(reference)), reference["outputs"]["logits (B, num_classes)"])

    arguments = [str(own), "--model", "van_b0", "--to", "official", "--entry", "model", "--out", str(back)]
    assert convert.main(arguments) == 0
    assert read_checkpoint(back)["meta"]["source"] == "van_tiny_754.pth.tar"
    capsys.readouterr()
    assert convert.main(["--check", str(van_b0), str(back)]) == 0
    assert capsys.readouterr().out == "equal: 402 entries\n"


def test_the_cache_takes_an_imported_file(van_b0, tmp_path, monkeypatch, capsys):
    """What the error of a tag without direct link tells to do."""
    monkeypatch.setenv("BACKBONES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BACKBONES_MIRROR", str(tmp_path / "nothing"))
    out = tmp_path / "home" / "van_b0.in1k.safetensors"
    convert.main([str(van_b0), "--model", "van_b0.in1k", "--out", str(out)])
    assert backbones.create_model("van_b0.in1k", pretrained=True).pretrained_cfg["file"] == str(out)


@pytest.mark.mm
def test_to_an_openmmlab_checkpoint(tmp_path, capsys):
    from backbones.mm import ZooBackbone

    torch.manual_seed(0)
    model = backbones.create_model("test_litv2", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    arguments = [str(tmp_path / "a.pth"), "--model", "test_litv2", "--to", "mm", "--out", str(tmp_path / "mm.pth")]
    assert convert.main(arguments) == 0
    assert "runs: output [1, 10]" in capsys.readouterr().out  # the checkpoint says how many classes
    init_cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "mm.pth")}
    backbone = ZooBackbone("test_litv2", init_cfg=init_cfg)
    backbone.init_weights()
    assert torch.equal(backbone.model.stages[3].downsample.conv.weight, model.stages[3].downsample.conv.weight)


def test_backbone_without_head(tmp_path, capsys):
    model = backbones.create_model("test_van", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert convert.main([str(tmp_path / "a.pth"), "--model", "test_van"]) == 0
    assert "runs: output [1, 64]" in capsys.readouterr().out


def test_check_names_every_difference(tmp_path, capsys):
    torch.save({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, tmp_path / "1.pth")
    torch.save(
        {"model": {"a": torch.ones(2), "b": torch.tensor([1.0, 1.5]), "c": torch.ones(3), "d": torch.ones(1)}},
        tmp_path / "2.pth",
    )
    assert convert.main(["--check", str(tmp_path / "1.pth"), str(tmp_path / "2.pth")]) == 1
    printed = capsys.readouterr().out
    assert "b: differs by up to 0.5" in printed and "c: [2] torch.float32 and [3] torch.float32" in printed
    assert "2.pth: d" in printed and "\na:" not in printed


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    torch.save(backbones.create_model("test_litv2").state_dict(), tmp_path / "a.pth")
    with pytest.raises(SystemExit, match="does not fit test_van: missing from the checkpoint: stem.norm.running_mean"):
        convert.main([str(tmp_path / "a.pth"), "--model", "test_van", "--out", str(tmp_path / "b.safetensors")])
    assert not (tmp_path / "b.safetensors").exists()


def test_weights_that_do_not_run_are_not_written(tmp_path):
    weights = backbones.create_model("test_van").state_dict()
    weights["head.fc.bias"][3] = float("nan")
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(SystemExit, match="1 values that are not finite"):
        convert.main([str(tmp_path / "a.pth"), "--model", "test_van", "--out", str(tmp_path / "b.safetensors")])
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.pth"], "give a checkpoint and --model"),
        (["SOURCE", "--model", "test_van", "--to", "timm"], "knows own, mm, official, mmpretrain"),
        (["SOURCE", "--model", "test_van", "--out", "x.pth"], "written as .safetensors"),
        (
            ["SOURCE", "--model", "test_van", "--to", "mm", "--out", "SOURCE"],
            "is the source, which has more than weights",
        ),
    ],
)
def test_wrong_arguments(tmp_path, capsys, arguments, message):
    torch.save(backbones.create_model("test_van").state_dict(), tmp_path / "a.pth")
    with pytest.raises(SystemExit):
        convert.main([str(tmp_path / "a.pth") if word == "SOURCE" else word for word in arguments])
    assert message in capsys.readouterr().err


def test_absent_source_and_unknown_model(tmp_path):
    with pytest.raises(SystemExit, match="absent.pth"):
        convert.main(["absent.pth", "--model", "test_van"])
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(SystemExit, match="no model is called 'vann_b0'; did you mean"):
        convert.main([str(tmp_path / "a.pth"), "--model", "vann_b0"])
