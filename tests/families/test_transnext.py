"""TransNeXt and MoH: equal to the official values, key layouts, the families' own."""

import pytest
import torch
from torch import nn

import backbones
from backbones.layers import AggregatedAttention, HeadGate
from backbones.layers.functional import call_with_balance
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input


def tiny(name: str = "test_transnext", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model(name, num_classes=7, **kwargs)


@pytest.mark.parametrize(
    ("name", "variant"), [("transnext_micro", "transnext_micro"), ("moh_vit_s_80", "moh_vit_s_80")]
)
def test_equals_the_official_values(name: str, variant: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model(variant).eval()
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


@pytest.mark.parametrize(("mode", "options"), [("extrapolation", {}), ("interpolation", {"pos_bias_size": 512})])
def test_equals_the_official_dense_pyramid(mode: str, options: dict) -> None:
    reference = load_reference(f"transnext_micro_detection_{mode}_192x256")
    model = backbones.create_model("transnext_micro", num_classes=0, **options).eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        maps = model.forward_intermediates(reference_input(reference), intermediates_only=True)
    assert len(maps) == len(reference["outputs"])
    for i, y in enumerate(maps):
        assert_matches(y, reference["outputs"][f"level{i} (B, C, H, W)"])
    assert sum(p.numel() for p in model.parameters()) == reference["params"]


# Key layout ----------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the authors'."""
    part, *rest = key.split(".")
    if part == "stem":
        return f"patch_embed1.{'.'.join(rest)}"
    if part == "head":
        return f"head.{rest[1]}"
    stage, kind, *rest = rest
    number, name = int(stage) + 1, ".".join(rest)
    if kind in ("downsample", "norm"):
        return f"{'patch_embed' if kind == 'downsample' else 'norm'}{number}.{name}"
    for ours, theirs in {
        "pos_bias.fc": "cpb_fc",
        "rpb": "relative_pos_bias_local",
        "gate.": "",
        "dwconv": "dwconv.dwconv",
    }.items():
        name = name.replace(ours, theirs)
    return f"block{number}.{name}"


@pytest.mark.parametrize("name", ["transnext_micro", "moh_vit_s_80"])
def test_layout_of_the_official_checkpoint(name: str) -> None:
    model = backbones.create_model(name, device="meta")
    assert {to_official(key) for key in model.state_dict()} == load_reference(name)["state_dict"].keys()


@pytest.mark.parametrize("name", ["test_transnext", "test_moh"])
def test_layouts_convert_with_no_key_left(name: str) -> None:
    """Classification files hold it bare or under "model", dense ones under "state_dict" with the backbone's prefix."""
    model = tiny(name)
    own = model.state_dict()
    official = {to_official(k): v[:, :, None, None] if k.endswith("sr.weight") else v for k, v in own.items()}
    for checkpoint in (official, {"model": official}):
        converted = convert_state_dict(checkpoint, model)
        assert converted.keys() == own.keys()
        assert all(torch.equal(converted[key], own[key]) for key in own)
    dense = {f"backbone.{key}": value for key, value in official.items() if not key.startswith("head.")}
    converted = convert_state_dict({"state_dict": dense, "meta": {}}, model, strict=False)
    assert converted.keys() == {key for key in own if not key.startswith("head.")}


# The families' own ---------------------------------------------------------------------------------------------------


PARAMETERS = {  # counted on the authors' models
    "transnext_micro_aaaa": 13_114_008,
    "transnext_tiny": 28_258_960,
    "transnext_small": 49_741_564,
    "transnext_base": 89_721_496,
    "moh_vit_s_75": 49_910_548,
    "moh_vit_b_75": 90_020_632,
    "moh_vit_b_50": 90_023_512,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    model = backbones.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_every_stage_can_aggregate() -> None:
    model = tiny(sr_ratios=(16, 8, 4, 2), pretrain_size=256).eval()
    assert all(isinstance(b.attn, AggregatedAttention) for stage in model.stages for b in stage.blocks)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96)).isfinite().all()


def test_distances_are_relative_to_the_pretraining() -> None:
    default, other = tiny().eval(), tiny(pretrain_size=384).eval()
    other.load_state_dict(default.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(default(x), other(x))


def test_learnable_tokens_decay_and_positions_do_not() -> None:
    spared = tiny("test_moh").no_weight_decay()
    assert spared and all(key.split(".attn.")[1].startswith(("q", "rpb", "pos_bias", "temp")) for key in spared)
    assert not [key for key in spared if "learnable" in key or "gate" in key or "qkv" in key]


def test_half_of_the_heads_are_on() -> None:
    """As in the paper: 294 of the 588 heads of B-50 are, of every token."""
    model = backbones.create_model("moh_vit_b_50", device="meta")
    gates = [module for module in model.modules() if isinstance(module, HeadGate)]
    assert sum(gate.shared + gate.top_k for gate in gates) == 294


def test_the_balance_comes_with_the_logits() -> None:
    model, x = tiny("test_moh"), torch.randn(2, 3, 64, 64)
    logits, balance = call_with_balance(model, x)
    torch.testing.assert_close(logits, model(x))
    balance.backward()
    gates = {key: p for key, p in model.named_parameters() if key.endswith("gate.wg.weight")}
    assert gates and any(p.grad is not None and p.grad.any() for p in gates.values())
