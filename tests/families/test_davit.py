"""DaViT: equal to the official values and to timm's models, key layouts, sizes, family options."""

import pytest
import timm
import torch
from torch import nn

import backbones
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

OFFICIAL_PARAMS = {
    "davit_tiny_window7_224": 28_360_168,
    "davit_small_window7_224": 49_745_896,
    "davit_base_window7_224": 87_954_408,
    "davit_large_window12_384": 196_811_752,
    "davit_huge_window12_384": 348_922_856,  # from here on timm's reading of the paper
    "davit_giant_window12_384": 1_406_470_120,
}


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_davit", num_classes=7, **kwargs)


@pytest.mark.parametrize("name", ["davit_tiny", "davit_tiny_200x264"])
def test_equals_the_official_values(name: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model("davit_tiny_window7_224").eval()
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


@pytest.mark.parametrize(
    ("ours", "timms"),
    [
        ("davit_tiny_window7_224", "davit_tiny"),
        pytest.param("davit_small_window7_224", "davit_small", marks=pytest.mark.slow),
        pytest.param("davit_base_window7_224", "davit_base", marks=pytest.mark.slow),
    ],
)
def test_equals_timm_on_the_same_weights(ours: str, timms: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(timms).eval()
    model = backbones.create_model(ours).eval()
    model.load_state_dict(convert_state_dict(theirs.state_dict(), model))
    for size in ((224, 224), (117, 250), (57, 91), (32, 32)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", OFFICIAL_PARAMS)
def test_parameters(name: str) -> None:
    model = backbones.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == OFFICIAL_PARAMS[name]


# Key layouts ---------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the classification code's."""
    part, *rest = key.split(".")
    if part == "stem":
        return f"patch_embeds.0.{'.'.join(rest)}"
    if part == "head":
        return {"norm": "norms", "fc": "head"}[rest[0]] + f".{rest[1]}"
    stage, kind, *rest = rest
    if kind == "downsample":
        return f"patch_embeds.{stage}.{'.'.join(rest).replace('pre_norm', 'norm')}"
    number, block, *rest = rest
    name = ".".join(rest).replace("cpe1", "cpe.0").replace("cpe2", "cpe.1")
    return f"main_blocks.{stage}.{number}.{int(block == 'channel_block')}.{name}"


def to_timm(key: str) -> str:
    key = key.replace("stem.proj", "stem.conv").replace("downsample.proj", "downsample.conv")
    return key.replace("pre_norm", "norm").replace("spatial_block", "0").replace("channel_block", "1")


def to_mmpretrain(key: str) -> str:
    """There downsampling ends the stage before, and the norm is a part of the backbone."""
    if key.startswith("head.fc."):
        return key
    if ".downsample." in key:
        _, stage, rest = key.split(".", 2)
        key = f"stages.{int(stage) - 1}.{rest}".replace("pre_norm", "norm").replace(".proj.", ".projection.")
    key = key.replace("stem.proj", "patch_embed.projection").replace("stem", "patch_embed")
    key = key.replace("spatial_block.attn", "spatial_block.attn.w_msa")
    key = key.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1").replace("head.norm", "norm3")
    return f"backbone.{key}"


LAYOUTS = {"official": to_official, "timm": to_timm, "mmpretrain": to_mmpretrain}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_layouts_convert_with_no_key_left(layout: str, wrapper: str | None) -> None:
    model = tiny()
    own = model.state_dict()
    checkpoint = {LAYOUTS[layout](key): value for key, value in own.items()}
    assert len(checkpoint) == len(own)
    converted = convert_state_dict({wrapper: checkpoint} if wrapper else checkpoint, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


@pytest.mark.parametrize("name", ["davit_tiny", "davit_tiny_200x264"])
def test_layout_of_the_official_checkpoint(name: str) -> None:
    """The names that this file translates to are those of the recorded checkpoint."""
    model = backbones.create_model("davit_tiny_window7_224", device="meta")
    assert {to_official(key) for key in model.state_dict()} == load_reference(name)["state_dict"].keys()


def test_layout_of_timm() -> None:
    model = backbones.create_model("davit_tiny_window7_224", device="meta")
    assert {to_timm(key) for key in model.state_dict()} == timm.create_model(
        "davit_tiny", device="meta"
    ).state_dict().keys()


@pytest.mark.mm
@pytest.mark.slow
def test_layout_of_mmpretrain() -> None:
    from mmpretrain.models import DaViT, LinearClsHead

    theirs = nn.ModuleDict({"backbone": DaViT("t", pad_small_map=True), "head": LinearClsHead(1000, 768)})
    theirs.eval()
    patch_embed = theirs["backbone"].patch_embed
    patch_embed.adaptive_padding, patch_embed.projection.padding = None, (3, 3)  # it pads 1 and 2, the authors 3 and 3
    model = backbones.create_model("davit_tiny_window7_224").eval()
    assert {to_mmpretrain(key) for key in model.state_dict()} == theirs.state_dict().keys()
    model.load_state_dict(convert_state_dict(theirs.state_dict(), model))
    x = torch.randn(1, 3, 96, 128)  # its windows pad too
    with torch.no_grad():
        features = model.head.norm(model.forward_features(x)).permute(0, 3, 1, 2)  # it norms before it pools
        torch.testing.assert_close(features, theirs["backbone"](x)[0], atol=1e-4, rtol=1e-4)


def test_layout_of_the_detection_code() -> None:
    """Its norms of the levels are kept for those who add them; the classifier's norm and head are not there."""
    model = tiny()
    own = model.state_dict()
    checkpoint = {f"backbone.{to_official(key)}": value for key, value in own.items() if not key.startswith("head.")}
    checkpoint |= {f"backbone.norm{i}.weight": torch.ones(c["num_chs"]) for i, c in enumerate(model.feature_info)}
    converted = convert_state_dict({"state_dict": checkpoint, "meta": {}}, model, strict=False)
    norms = {f"out_norms.{i}.weight" for i in range(4)}
    assert converted.keys() == {key for key in own if not key.startswith("head.")} | norms


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (57, 31 + 1), (64, 96), (101, 203), (32, 320), (320, 35)])
def test_any_size_rounds_up(size: tuple[int, int]) -> None:
    model = tiny().eval()
    with torch.no_grad():
        last, maps = model.forward_intermediates(torch.randn(2, 3, *size))
        logits = model.forward_head(last)
    assert logits.shape == (2, 7) and logits.isfinite().all()
    for y, info in zip(maps, model.feature_info, strict=True):
        assert y.shape == (2, info["num_chs"], *(-(-side // info["reduction"]) for side in size))
        assert y.isfinite().all()


# The family's own ----------------------------------------------------------------------------------------------------


def test_drop_path_rises_from_block_to_block() -> None:
    """Spatial and channel block of a pair have rates of their own, as in the authors' code."""
    model = backbones.create_model("davit_tiny_window7_224", drop_path_rate=0.1, device="meta")
    blocks = [m for m in model.modules() if hasattr(m, "drop_path")]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


def test_head_pools_before_it_normalises() -> None:
    model = tiny().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_features(x).mean((1, 2))
        torch.testing.assert_close(model(x), model.head.fc(model.head.norm(pooled)))
        torch.testing.assert_close(
            model.forward_head(model.forward_features(x), pre_logits=True), model.head.norm(pooled)
        )


def test_window_size_is_an_option() -> None:
    small, large = tiny(window_size=4).eval(), tiny(window_size=7).eval()
    large.load_state_dict(small.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(small(x), large(x))


def test_overlapping_downsampling_is_an_option() -> None:
    """The paper's parameter counts of its two largest models, which timm's reading misses."""
    for name, printed in (("davit_huge_window12_384", 362), ("davit_giant_window12_384", 1437)):
        model = backbones.create_model(name, overlap=True, device="meta")
        assert sum(p.numel() for p in model.parameters()) // 1_000_000 == printed
    model = tiny(overlap=True).eval()
    with torch.no_grad():
        maps = model.forward_intermediates(torch.randn(1, 3, 57, 91), intermediates_only=True)
    assert [y.shape[2:] for y in maps] == [(15, 23), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite(dtype: torch.dtype) -> None:
    model = tiny()
    x = torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", dtype):
        logits = model(x)
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
