"""AttNet: equal to the official values, key layout, the family's own."""

import pytest
import torch
from torch import nn

import backbones
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

REFERENCES = ["attnet_xxs", "attnet_xxs_200x264", "attnet_t1"]


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_attnet", num_classes=7, **kwargs)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_official_values(name: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model(reference["variant"].lower()).eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        last, maps = model.forward_intermediates(reference_input(reference))
        logits = model.forward_head(last)
    outputs = {f"stage{i} (B, C, H, W)": y for i, y in enumerate(maps)}
    outputs["logits (B, num_classes)"] = logits
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)
    assert sum(p.numel() for p in model.parameters()) == reference["params"]


# Key layout ----------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the authors'."""
    part, *rest = key.split(".")
    if part == "stem":
        number, kind, name = rest
        return f"downsample_layers.0.{0 if number == 'conv1' else 2}.{0 if kind == 'proj' else 1}.{name}"
    if part == "head":
        return f"norm.{rest[1]}" if rest[0] == "norm" else f"head.{rest[1]}"
    stage, kind, *rest = rest
    if kind == "downsample":
        return f"downsample_layers.{stage}.{0 if rest[0] == 'proj' else 1}.{rest[1]}"
    block, name = rest[0], ".".join(rest[1:])
    for ours, theirs in {
        "mlp.norm": "channel_mixer.norm_layer",
        "mlp.": "channel_mixer.",
        "ls1": "layer_scale_1",
        "ls2": "layer_scale_2",
        "norm1": "norm_1",
        "norm2": "norm_2",
    }.items():
        name = name.replace(ours, theirs)
    return f"stages.{stage}.{block}.{name}"


@pytest.mark.parametrize("name", REFERENCES)
def test_layout_of_the_official_checkpoint(name: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model(reference["variant"].lower(), device="meta")
    assert {to_official(key) for key in model.state_dict()} == reference["state_dict"].keys()


@pytest.mark.parametrize("options", [{}, {"layer_scale": False}, {"mlp_norm": False}])
def test_training_files_convert_with_no_key_left(options: dict) -> None:
    """They hold averages beside the weights; the weights are what the authors evaluate."""
    model = tiny(**options)
    own = model.state_dict()
    pixelwise = ("kernel_proj.weight", "x_proj.weight", "token_mixer.proj.weight", "fc1.weight", "fc2.weight")
    weights = {to_official(k): v[..., None, None] if k.endswith(pixelwise) else v for k, v in own.items()}
    averages = {key: torch.zeros_like(value) for key, value in weights.items()}
    converted = convert_state_dict({"model_ema": averages, "epoch": 300, "model": weights}, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


# The family's own ----------------------------------------------------------------------------------------------------


def test_options_change_the_blocks() -> None:
    assert not [key for key in tiny(layer_scale=False).state_dict() if ".ls" in key]
    assert not [key for key in tiny(mlp_norm=False).state_dict() if ".mlp.norm." in key]
    assert [key for key in tiny().state_dict() if ".mlp.norm." in key or ".ls1." in key]


def test_weights_are_fetched_by_hand() -> None:
    with pytest.raises(OSError, match=r"sharepoint\.com.*AttNet_T2_\*\.pth.*--model attnet_t2\.in1k"):
        backbones.create_model("attnet_t2", pretrained=True)
