"""LITv2: equal to the official values, key layouts, sizes, the family's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backbones
from backbones.layers import HiLoAttention
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_litv2", num_classes=7, **kwargs)


def test_equals_the_official_values() -> None:
    reference = load_reference("litv2_s")
    model = backbones.create_model("litv2_s").eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        last, maps = model.forward_intermediates(reference_input(reference), output_fmt="NHWC")
        logits = model.forward_head(last)
    outputs = {f"stage{i + 1}_last_block (B, L, C)": y.flatten(1, 2) for i, y in enumerate(maps)}
    outputs["logits (B, num_classes)"] = logits
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)
    assert sum(p.numel() for p in model.parameters()) == reference["params"]


def test_equals_the_official_detection_pyramid() -> None:
    """At 203 x 261, where the stem pads, merging drops rows and HiLo pads; the levels have norms, all but the first."""
    reference = load_reference("litv2_s_detection_203x261")
    model = backbones.create_model("litv2_s", num_classes=0).eval()
    weights = convert_state_dict(official_state_dict(reference), model, strict=False)
    norms = {key: weights.pop(key) for key in list(weights) if key.startswith("out_norms.")}
    assert len(norms) == 6
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) == {"norm.weight", "norm.bias"} and not unexpected
    with torch.no_grad():
        maps = model.forward_intermediates(reference_input(reference), output_fmt="NHWC", intermediates_only=True)
    assert len(maps) == len(reference["outputs"])
    for i, y in enumerate(maps):
        if i > 0:
            y = F.layer_norm(y, y.shape[-1:], norms[f"out_norms.{i}.weight"], norms[f"out_norms.{i}.bias"])
        assert_matches(y.permute(0, 3, 1, 2), reference["outputs"][f"level{i} (B, C, H, W)"])


# Key layouts ---------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the classification code's."""
    key = key.replace("stem.", "patch_embed.").replace("head.fc.", "head.").replace(".dwconv.", ".dwconv.dwconv.")
    if key.startswith("stages.") and ".downsample." in key:  # merging ends the stage before
        _, stage, rest = key.split(".", 2)
        rest = rest.replace("conv.offset", "dconv.conv_offset") if "offset" in rest else rest
        rest = rest.replace("downsample.conv.", "downsample.dconv.").replace(
            "downsample.norm.", "downsample.norm_layer."
        )
        key = f"stages.{int(stage) - 1}.{rest}"
    return key.replace("stages.", "layers.")


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_layout_converts_with_no_key_left(alpha: float) -> None:
    model = tiny(alpha=alpha)
    own = model.state_dict()
    checkpoint = {to_official(key): value for key, value in own.items()}
    assert len(checkpoint) == len(own)
    converted = convert_state_dict({"model": checkpoint}, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


def test_layout_of_the_official_checkpoint() -> None:
    """The names that this file translates to are those of the recorded checkpoint."""
    model = backbones.create_model("litv2_s", device="meta")
    assert {to_official(key) for key in model.state_dict()} == load_reference("litv2_s")["state_dict"].keys()


# The family's own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((32, 32), [(8, 8), (4, 4), (2, 2), (1, 1)]),
        ((33, 47), [(9, 12), (4, 6), (2, 3), (1, 1)]),  # up in the stem, down after
        ((203, 261), [(51, 66), (25, 33), (12, 16), (6, 8)]),
    ],
)
def test_merging_drops_an_odd_last_row(size: tuple[int, int], sides: list[tuple[int, int]]) -> None:
    model = tiny().eval()
    with torch.no_grad():
        maps = model.forward_intermediates(torch.randn(1, 3, *size), intermediates_only=True)
    assert [tuple(y.shape[2:]) for y in maps] == sides
    assert all(y.isfinite().all() for y in maps)


def test_attention_is_in_the_last_two_stages() -> None:
    model = tiny()
    attention = [[b.attn for b in stage.blocks] for stage in model.stages]
    assert all(attn is None for stage in attention[:2] for attn in stage)
    assert all(isinstance(attn, HiLoAttention) and attn.window_size == 2 for attn in attention[2])
    assert all(attn.window_size == 1 and attn.hi_heads == 0 for attn in attention[3])  # global


@pytest.mark.parametrize("options", [{"attn_window_size": 4}, {"alpha": 0.25}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_hilo_options_change_stage_3_only(options: dict) -> None:
    default, other = tiny().eval(), tiny(**options).eval()
    attn = other.stages[2].blocks[0].attn
    assert attn.window_size == options.get("attn_window_size", 2)
    assert attn.lo_heads == int(4 * options.get("alpha", 0.5))
    shared = default.state_dict()
    shared = {key: value for key, value in other.state_dict().items() if key not in shared} | {
        key: shared[key] if shared[key].shape == value.shape else value
        for key, value in other.state_dict().items()
        if key in shared
    }
    other.load_state_dict(shared)
    x = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        a = default.forward_intermediates(x, intermediates_only=True)
        b = other.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert a[2].shape == b[2].shape and not torch.allclose(a[2], b[2])


def test_window_size_keeps_the_parameters() -> None:
    """So the published weights run with the larger windows of the faster detection models."""
    small, large = tiny(), tiny(attn_window_size=4)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}


def test_drop_path_rises_from_block_to_block() -> None:
    model = backbones.create_model("litv2_s", drop_path_rate=0.11, device="meta")
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.11 * i / 11 for i in range(12)])


def test_offsets_start_at_zero() -> None:
    model = tiny()
    offsets = [p for key, p in model.named_parameters() if ".offset." in key]
    assert len(offsets) == 6 and not any(p.any() for p in offsets)
