"""NAT and DiNAT: equal to the official values, key layouts, dilations, padding, the family's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones.layers import HeadGate, NeighborhoodAttention
from backbones.layers.functional import call_with_balance
from backbones.models.nat import DILATIONS
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

TINY = ("test_nat", "test_dinat", "test_dinat_s", "test_nat_moh")


def tiny(name: str = "test_dinat", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model(name, num_classes=7, **kwargs)


def dilations(model: nn.Module) -> list[list[int]]:
    return [[block.attn.dilation for block in stage.blocks] for stage in model.stages]


@pytest.mark.parametrize("name", ["nat_mini", "dinat_mini", "dinat_mini_200x264"])
def test_equals_the_official_values(name: str) -> None:
    """At 200 x 264 three levels of DiNAT are smaller than their dilated neighbourhoods."""
    reference = load_reference(name)
    model = backbones.create_model(reference["variant"]).eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        last, maps = model.forward_intermediates(reference_input(reference))
        logits = model.forward_head(last)
    outputs = {f"stage{i} (B, C, H, W)": y for i, y in enumerate(maps)} | {"logits (B, num_classes)": logits}
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)
    assert sum(p.numel() for p in model.parameters()) == reference["params"]


def test_equals_the_official_detection_pyramid() -> None:
    reference = load_reference("nat_mini_detection_203x261")
    model = backbones.create_model("nat_mini", num_classes=0).eval()
    weights = convert_state_dict(official_state_dict(reference), model, strict=False)
    norms = {key: weights.pop(key) for key in list(weights) if key.startswith("out_norms.")}
    assert len(norms) == 8
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) == {"norm.weight", "norm.bias"} and not unexpected
    with torch.no_grad():
        maps = model.forward_intermediates(reference_input(reference), output_fmt="NHWC", intermediates_only=True)
    assert len(maps) == len(reference["outputs"])
    for i, y in enumerate(maps):
        y = F.layer_norm(y, y.shape[-1:], norms[f"out_norms.{i}.weight"], norms[f"out_norms.{i}.bias"])
        assert_matches(y.permute(0, 3, 1, 2), reference["outputs"][f"level{i} (B, C, H, W)"])


# Key layouts ---------------------------------------------------------------------------------------------------------


def to_official(key: str, levels: str) -> str:
    """Our key -> the authors'."""
    key = key.replace("stem.", "patch_embed.").replace("head.fc.", "head.")
    key = key.replace("ls1.gamma", "gamma1").replace("ls2.gamma", "gamma2")
    if ".downsample." in key:  # it ends the level before
        _, stage, rest = key.split(".", 2)
        key = f"stages.{int(stage) - 1}.{rest}"
    return key.replace("stages.", f"{levels}.")


def to_hugging_face(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Our state dict -> that of transformers' image classification model."""
    out: dict[str, Tensor] = {}
    for key, value in weights.items():
        key = to_official(key, "encoder.levels")
        for theirs, ours in (
            ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
            ("embeddings.", "patch_embed."),
            (".layers.", ".blocks."),
            (".layernorm_before.", ".norm1."),
            (".layernorm_after.", ".norm2."),
            (".attention.self.rpb", ".attn.rpb"),
            (".attention.self.", ".attn.qkv."),
            (".attention.output.dense.", ".attn.proj."),
            (".intermediate.dense.", ".mlp.fc1."),
            (".output.dense.", ".mlp.fc2."),
            (".layer_scale_parameters", ".gamma1"),
        ):
            key = key.replace(ours, theirs)
        if key.startswith("head."):
            out[key.replace("head.", "classifier.")] = value
            continue
        key = f"{prefix}.layer{key}" if key.startswith("norm.") else f"{prefix}.{key}"
        if key.endswith((".self.weight", ".self.bias")):
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[key.replace(".self.", f".self.{name}.")] = part
        elif key.endswith(".gamma2"):
            pair = key.replace("gamma2", "layer_scale_parameters")
            out[pair] = torch.stack([out[pair], value])
        else:
            out[key] = value
    return out


def assert_converts(checkpoint: dict[str, Tensor], model: nn.Module) -> None:
    own = model.state_dict()
    converted = convert_state_dict(checkpoint, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


@pytest.mark.parametrize(
    ("name", "levels"),
    [("test_nat", "levels"), ("test_dinat", "levels"), ("test_dinat_s", "layers"), ("test_nat_moh", "levels")],
)
def test_official_layout_converts_with_no_key_left(name: str, levels: str) -> None:
    model = tiny(name)
    checkpoint = {to_official(key, levels): value for key, value in model.state_dict().items()}
    assert len(checkpoint) == len(model.state_dict())
    assert_converts(checkpoint, model)
    assert_converts({"state_dict": {f"backbone.{key}": value for key, value in checkpoint.items()}}, model)


@pytest.mark.parametrize(("name", "prefix"), [("test_dinat", "dinat"), ("test_nat", "nat"), ("test_nat", "dinat")])
def test_hugging_face_layout_converts_with_no_key_left(name: str, prefix: str) -> None:
    model = tiny(name)
    checkpoint = to_hugging_face(model.state_dict(), prefix)
    assert f"{prefix}.encoder.levels.0.layers.0.attention.self.query.weight" in checkpoint
    assert (f"{prefix}.encoder.levels.0.layers.0.layer_scale_parameters" in checkpoint) == (name == "test_nat")
    assert_converts(checkpoint, model)


@pytest.mark.parametrize("name", ["nat_mini", "dinat_mini"])
def test_layout_of_the_official_checkpoint(name: str) -> None:
    """The names that this file translates to are those of the recorded checkpoint."""
    model = backbones.create_model(name, device="meta")
    assert {to_official(key, "levels") for key in model.state_dict()} == load_reference(name)["state_dict"].keys()


# The family's own ----------------------------------------------------------------------------------------------------


def test_dilation_lists() -> None:
    """As the released configs have them."""
    model = backbones.create_model("dinat_base", dilations="coco", device="meta")
    assert dilations(model) == [[1, 28, 1], [1, 7, 1, 14], [1, 3, 1, 5, 1, 7] * 3, [1, 3, 1, 3, 1]]
    model = backbones.create_model("dinat_mini", dilations="ade20k", device="meta")
    assert dilations(model) == [[1, 16, 1], [1, 4, 1, 8], [1, 2, 1, 3, 1, 4], [1, 2, 1, 2, 1]]
    model = backbones.create_model("dinat_s_tiny", dilations="s_coco", device="meta")
    assert dilations(model) == [[1, 28], [1, 14], [1, 3, 1, 5, 1, 7], [1, 3]]
    model = backbones.create_model("dinat_large_k11_384", dilations="mask2former", device="meta")
    assert dilations(model)[2] == [1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 3]
    assert dilations(backbones.create_model("dinat_tiny", device="meta"))[2] == [1, 2] * 9
    assert dilations(backbones.create_model("nat_tiny", device="meta")) == [[1] * n for n in (3, 4, 18, 5)]
    for name in ("ade20k_large", "s_ade20k_large"):
        assert len(DILATIONS[name][2]) == 18


@pytest.mark.parametrize("name", TINY)
def test_dilations_keep_the_parameters_and_change_the_maps(name: str) -> None:
    plain, dilated = (tiny(name, dilations=((d,),) * 4).eval() for d in (1, 3))
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert not torch.equal(plain(x), dilated(x))
    assert dilations(dilated) == [[3] * len(stage.blocks) for stage in dilated.stages]


def test_wrong_dilations_are_refused() -> None:
    with pytest.raises(ValueError, match="no dilations are called 'ade'; there are none, 224, .*ade20k"):
        tiny(dilations="ade")
    with pytest.raises(ValueError, match="must have a list for each of 4 stages"):
        tiny(dilations=((1, 2), (1,)))
    with pytest.raises(ValueError, match="dilation is a number of pixels from 1 up, got 0"):
        tiny(dilations=((1, 0), (1,), (1,), (1,)))


def test_kernel_size_is_that_of_every_block() -> None:
    model = backbones.create_model("dinat_large_k11_384", device="meta")
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, NeighborhoodAttention)}
    assert kernels == {11} and model.stages[0].blocks[0].attn.rpb.shape == (6, 21, 21)


def test_merging_puts_the_columns_of_a_block_first() -> None:
    merging = tiny("test_dinat_s").stages[1].downsample
    x = torch.randn(1, 3, 4, 16)
    padded = F.pad(x, (0, 0, 0, 0, 0, 1))
    phases = [padded[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = merging.reduction(merging.norm(torch.cat(phases, dim=-1)))
    torch.testing.assert_close(merging(x), expected)


def test_layer_scale_is_where_the_authors_have_it() -> None:
    have = {name for name in backbones.list_models("*nat_*") if "ls1.gamma" in str(keys(name))}
    assert have == {"nat_small", "nat_base", "dinat_base"}


def keys(name: str) -> list[str]:
    return list(backbones.create_model(name, device="meta").state_dict())


def test_tables_of_biases_are_not_decayed() -> None:
    model = tiny()
    assert model.no_weight_decay() == {key for key, _ in model.named_parameters() if key.endswith("attn.rpb")} != set()


def test_heads_are_gated_by_stage() -> None:
    model = backbones.create_model("nat_mini", heads_shared=(2, 4, 6, 12), heads_on=(0, 0, 1, 2), device="meta")
    gates = [[block.attn.gate for block in stage.blocks] for stage in model.stages]
    assert all(isinstance(gate, HeadGate) for stage in gates for gate in stage)
    assert [(stage[0].shared, stage[0].top_k) for stage in gates] == [(2, 0), (4, 0), (6, 1), (12, 2)]
    assert not any(isinstance(m, HeadGate) for m in backbones.create_model("nat_mini", device="meta").modules())


def test_the_balance_comes_with_the_logits() -> None:
    model, x = tiny("test_nat_moh"), torch.randn(2, 3, 64, 64)
    logits, balance = call_with_balance(model, x)
    torch.testing.assert_close(logits, model(x))
    balance.backward()
    gates = {key: p for key, p in model.named_parameters() if key.endswith("gate.wg.weight")}
    assert gates and any(p.grad is not None and p.grad.any() for p in gates.values())
