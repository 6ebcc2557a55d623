"""VAN: equal to the official values, key layouts, the family's own."""

import pytest
import torch
from torch import nn

import backbones
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

REFERENCES = ["van_b0", "van_b0_256x192"]


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_van", num_classes=7, **kwargs)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_official_values(name: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model("van_b0").eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        last, maps = model.forward_intermediates(reference_input(reference))
        logits = model.forward_head(last)
    outputs = {f"stage{i + 1}_norm (B, L, C)": y.permute(0, 2, 3, 1).flatten(1, 2) for i, y in enumerate(maps)}
    outputs["logits (B, num_classes)"] = logits
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)
    assert sum(p.numel() for p in model.parameters()) == reference["params"]


# Key layouts ---------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the classification code's."""
    part, *rest = key.split(".")
    if part == "stem":
        return f"patch_embed1.{'.'.join(rest)}"
    if part == "head":
        return f"head.{rest[1]}"
    stage, kind, *rest = rest
    number, name = int(stage) + 1, ".".join(rest)
    if kind == "downsample":
        return f"patch_embed{number}.{name}"
    if kind == "norm":
        return f"norm{number}.{name}"
    gate = "attn.spatial_gating_unit"
    for ours, theirs in {
        "ls1.gamma": "layer_scale_1",
        "ls2.gamma": "layer_scale_2",
        "attn.lka.local": f"{gate}.conv0",
        "attn.lka.dilated": f"{gate}.conv_spatial",
        "attn.lka.mix": f"{gate}.conv1",
        "dwconv": "dwconv.dwconv",
    }.items():
        name = name.replace(ours, theirs)
    return f"block{number}.{name}"


def to_mmpretrain(key: str) -> str:
    if key.startswith("head."):
        return key
    key = to_official(key).replace(".dwconv.dwconv.", ".dwconv.")
    for theirs, renamed in {
        "block": "blocks",
        ".proj.": ".projection.",
        ".conv0.": ".DW_conv.",
        ".conv_spatial.": ".DW_D_conv.",
    }.items():
        key = key.replace(theirs, renamed)
    return f"backbone.{key}"


@pytest.mark.parametrize("layout", [to_official, to_mmpretrain])
def test_layouts_convert_with_no_key_left(layout) -> None:
    model = tiny()
    own = model.state_dict()
    checkpoint = {layout(key): value for key, value in own.items()}
    assert len(checkpoint) == len(own)
    converted = convert_state_dict({"state_dict": checkpoint}, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


@pytest.mark.parametrize("name", REFERENCES)
def test_layout_of_the_official_checkpoint(name: str) -> None:
    """The names that this file translates to are those of the recorded checkpoint."""
    model = backbones.create_model("van_b0", device="meta")
    assert {to_official(key) for key in model.state_dict()} == load_reference(name)["state_dict"].keys()


def test_convolutions_of_one_pixel_become_linear_layers() -> None:
    model = tiny()
    own = model.state_dict()
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and not name.startswith("head")]
    assert linear
    checkpoint = {
        to_official(key): value[:, :, None, None] if key.removesuffix(".weight") in linear else value
        for key, value in own.items()
    }
    converted = convert_state_dict(checkpoint, model)
    assert all(torch.equal(converted[key], own[key]) for key in own)


def test_segmentation_layout_has_no_head() -> None:
    model = tiny()
    checkpoint = {f"backbone.{to_official(k)}": v for k, v in model.state_dict().items() if not k.startswith("head.")}
    converted = convert_state_dict({"state_dict": checkpoint, "meta": {}}, model, strict=False)
    assert converted.keys() == {key for key in model.state_dict() if not key.startswith("head.")}


@pytest.mark.mm
@pytest.mark.slow
def test_equals_mmpretrain_on_its_weights() -> None:
    from mmpretrain.models import VAN, LinearClsHead

    torch.manual_seed(0)
    theirs = nn.ModuleDict({"backbone": VAN("tiny"), "head": LinearClsHead(1000, 256)}).eval()
    for key, p in theirs.named_parameters():
        if "layer_scale" in key:
            nn.init.normal_(p)
    model = backbones.create_model("van_b0", norm_eps=theirs["backbone"].norm1.eps).eval()
    assert {to_mmpretrain(key) for key in model.state_dict()} == theirs.state_dict().keys()
    model.load_state_dict(convert_state_dict(theirs.state_dict(), model))
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        features = model.forward_features(x).permute(0, 3, 1, 2)
        torch.testing.assert_close(features, theirs["backbone"](x)[0], atol=1e-4, rtol=1e-3)


# The family's own ----------------------------------------------------------------------------------------------------


def test_norm_eps_is_an_option() -> None:
    default, other = tiny().eval(), tiny(norm_eps=1.0).eval()
    other.load_state_dict(default.state_dict())
    assert all(stage.norm.eps == 1.0 for stage in other.stages)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(default(x), other(x))


def test_every_stage_ends_in_a_norm() -> None:
    model = tiny().eval()
    with torch.no_grad():
        maps = model.forward_intermediates(torch.randn(1, 3, 64, 64), output_fmt="NHWC", intermediates_only=True)
    for y in maps:
        torch.testing.assert_close(y.mean(-1), torch.zeros(y.shape[:-1]), atol=1e-4, rtol=0)


def test_drop_path_rises_from_block_to_block() -> None:
    model = backbones.create_model("van_b0", drop_path_rate=0.12, device="meta")
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.12 * i / 12 for i in range(13)])
