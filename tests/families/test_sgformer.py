"""SG-Former: equal to the official values, key layout, sizes, position table, significance maps."""

import copy
import re

import numpy as np
import pytest
import torch
from timm.models._input import get_model_traits
from torch import Tensor, nn

import backbones
from backbones.layers import HybridAttention
from backbones.models.sgformer import sincos_table
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

OFFICIAL_PARAMS = {"sgformer_s": 22_545_981, "sgformer_m": 38_689_316, "sgformer_b": 77_950_293}


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_sgformer", num_classes=7, **kwargs)


@pytest.fixture(scope="module")
def official() -> nn.Module:
    """SG-Former-S with the reference weights."""
    model = backbones.create_model("sgformer_s").eval()
    model.load_state_dict(convert_state_dict(official_state_dict(load_reference("sgformer_s")), model))
    return model


def test_equals_the_official_values(official: nn.Module) -> None:
    """As near as its near ties of significance let any two programs come (0.1, see the reference's README)."""
    reference = load_reference("sgformer_s")
    with torch.no_grad():
        last, maps = official.forward_intermediates(reference_input(reference), output_fmt="NHWC")
        logits = official.forward_head(last)
    outputs = {f"stage{i + 1}_norm (B, L, C)": y.flatten(1, 2) for i, y in enumerate(maps)}
    outputs["logits (B, num_classes)"] = logits
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded, atol=0.1)
        # Ties move single values but not the statistics.
        assert outputs[key].mean().item() == pytest.approx(recorded["mean"], abs=2e-3)
        assert outputs[key].std().item() == pytest.approx(recorded["std"], abs=2e-3)
    assert sum(p.numel() for p in official.parameters()) == reference["params"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_attention_units_equal_the_official_values(official: nn.Module, stage: int) -> None:
    outputs = load_reference("sgformer_s_attention_units")["outputs"]
    side, dim = (56, 28, 14)[stage - 1], (64, 128, 256)[stage - 1]
    random = np.random.RandomState(stage)
    x = torch.from_numpy(random.standard_normal((2, side * side, dim)).astype(np.float32)).view(2, side, side, dim)
    drawn = torch.from_numpy(random.random_sample((2, side * side)).astype(np.float32)).view(2, side, side)
    hybrid, guided = (block.attn for block in official.stages[stage - 1].blocks[:2])
    with torch.no_grad():
        out, significance = hybrid(x)
        by_rows, by_columns = guided.orders(drawn)
        if stage == 1:
            swap_the_tie_of_the_recording(drawn, by_columns)
        guided_out = guided.attend_merged(x, by_rows, by_columns)
    assert_matches(out.flatten(1, 2), outputs[f"block{stage}.0.attn: output (B, L, C)"])
    key = f"block{stage}.0.attn: significance, {{}} (B, L)"
    assert_matches(significance.flatten(1), outputs[key.format("row-major")], atol=1e-7)
    assert_matches(significance.mT.flatten(1), outputs[key.format("column-major")], atol=1e-7)
    key = f"block{stage}.1.attn given the drawn significance: output (B, L, C)"
    assert_matches(guided_out.flatten(1, 2), outputs[key])


def swap_the_tie_of_the_recording(drawn: Tensor, by_columns: Tensor) -> None:
    """The scores drawn for stage 1 hold one exact tie, in the first sample. The reference's sort is not stable and put
    the later pixel first in its second order (and only there), so the recorded values need that."""
    ranked = drawn[0].flatten()[by_columns[0]]
    (rank,) = (ranked[1:] == ranked[:-1]).nonzero().flatten().tolist()
    assert drawn[1].unique().numel() == drawn[1].numel()
    by_columns[0, [rank, rank + 1]] = by_columns[0, [rank + 1, rank]]


@pytest.mark.parametrize("name", OFFICIAL_PARAMS)
def test_parameters(name: str) -> None:
    model = backbones.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == OFFICIAL_PARAMS[name]


# Checkpoints ---------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the authors' code's."""
    key = re.sub(r"^stem\.conv(\d)\.", lambda m: f"patch_embed1.conv.{2 * int(m[1]) - 2}.", key)
    key = key.replace("stem.pos_embed", "pos_embed").replace("stem.norm", "patch_embed1.norm")
    key = re.sub(r"^stages\.(\d)\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}.", key)
    if key.startswith("patch_embed") and ".conv" in key:
        key = key.replace(".conv.weight", ".c.weight").replace(".norm.", ".bn.")
    key = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.", key)
    key = re.sub(r"^stages\.(\d)\.norm\.", lambda m: f"norm{int(m[1]) + 1}.", key)
    key = re.sub(r"\.merge\.(\d)\.", lambda m: f".f{int(m[1]) + 1}.", key)
    key = key.replace(".lepe.", ".lepe_").replace(".mlp.dwconv.", ".mlp.dwconv.dwconv.")
    return key.replace("head.fc.", "head.")


def test_layout_of_the_official_checkpoint() -> None:
    """The names that this file translates to are those of the recorded checkpoint."""
    model = backbones.create_model("sgformer_s", device="meta")
    assert {to_official(key) for key in model.state_dict()} == load_reference("sgformer_s")["state_dict"].keys()


@pytest.mark.parametrize("wrapper", [None, "state_dict_ema"])
def test_layout_converts_with_no_key_left(wrapper: str | None) -> None:
    model = tiny()
    own = model.state_dict()
    checkpoint = {to_official(key): value for key, value in own.items()}
    checkpoint["pos_embed"] = checkpoint["pos_embed"].flatten(1, 2)
    if wrapper:
        checkpoint = {"state_dict": {k: v + 1 for k, v in checkpoint.items()}, wrapper: checkpoint, "epoch": 3}
    converted = convert_state_dict(checkpoint, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


def test_a_checkpoint_of_another_image_size_resamples_its_table() -> None:
    small, large = tiny(img_size=64), tiny(img_size=(96, 160))
    checkpoint = {to_official(key): value for key, value in small.state_dict().items()}
    checkpoint["pos_embed"] = checkpoint["pos_embed"].flatten(1, 2)
    for source in (checkpoint, small.state_dict()):
        converted = convert_state_dict(source, large)
        large.load_state_dict(converted)
        assert large.stem.pos_embed.shape == (1, 24, 40, 16)
        x = torch.randn(1, 3, 96, 160)
        with torch.no_grad():  # the same resampling as in a forward pass
            torch.testing.assert_close(large.eval()(x), small.eval()(x))
    del checkpoint["pos_embed"]
    with pytest.raises(ValueError, match=r"missing from the checkpoint: stem\.pos_embed"):
        convert_state_dict(checkpoint, large)


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (57, 32), (64, 96), (101, 203), (32, 320), (320, 35)])
def test_any_size_rounds_up(size: tuple[int, int]) -> None:
    model = tiny().eval()
    with torch.no_grad():
        last, maps = model.forward_intermediates(torch.randn(2, 3, *size))
        logits = model.forward_head(last)
    assert logits.shape == (2, 7) and logits.isfinite().all()
    for y, info in zip(maps, model.feature_info, strict=True):
        assert y.shape == (2, info["num_chs"], *(-(-side // info["reduction"]) for side in size))
        assert y.isfinite().all()


def test_input_size_resizes_the_table() -> None:
    model = tiny().eval()
    x = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        before = model(x)
        model.set_input_size((64, 128))
        assert model.stem.pos_embed.shape == (1, 16, 32, 16)
        assert model.cfg.img_size == (64, 128)
        assert get_model_traits(model)["img_size"] == (64, 128)
        torch.testing.assert_close(model(x), before)
    with pytest.raises(ValueError, match="img_size 20 is below the 32 pixels"):
        model.set_input_size(20)


def test_position_table_is_sines_and_cosines_of_column_then_row() -> None:
    table = sincos_table(3, 5, 16)[0]
    for row in range(3):
        for column in range(5):
            for half, position in enumerate((column, row)):
                for i in range(4):
                    angle = position / 10000 ** (i / 4)
                    assert table[row, column, 8 * half + i].item() == pytest.approx(np.sin(angle))
                    assert table[row, column, 8 * half + 4 + i].item() == pytest.approx(np.cos(angle))
    assert torch.equal(tiny().stem.pos_embed, sincos_table(24, 24, 16).float())


# The family's own ----------------------------------------------------------------------------------------------------


def test_hybrid_and_self_guided_blocks_alternate() -> None:
    with pytest.raises(ValueError, match=r"depths \(2, 3, 2, 1\): .* first 3 must be even"):
        tiny(depths=(2, 3, 2, 1))


def test_significance_maps_for_pictures() -> None:
    model = tiny(depths=(4, 2, 2, 1)).eval()
    x = torch.randn(2, 3, 96, 64)
    maps = model.significance(x)
    assert {name: tuple(y.shape) for name, y in maps.items()} == {
        "stages.0.blocks.0": (2, 24, 16),
        "stages.0.blocks.2": (2, 24, 16),
        "stages.1.blocks.0": (2, 12, 8),
        "stages.2.blocks.0": (2, 6, 4),
    }
    # The first is what the first attention says; no hook stays behind.
    first = model.stages[0].blocks[0]
    with torch.no_grad():
        stem = model.stem(x.permute(0, 2, 3, 1))
        torch.testing.assert_close(maps["stages.0.blocks.0"], first.attn(first.norm1(stem))[1])
    assert not any(module._forward_hooks for module in model.modules())


def test_significance_carries_no_gradient_and_steers_the_next_block() -> None:
    model = tiny()
    x = torch.randn(1, 3, 96, 96)
    hybrid, guided = model.stages[0].blocks
    y, significance = hybrid(model.stem(x.permute(0, 2, 3, 1)))
    assert y.requires_grad and not significance.requires_grad
    assert not torch.allclose(guided(y, significance)[0], guided(y, -significance)[0])


def test_window_size_and_merging_are_options() -> None:
    x = torch.randn(1, 3, 64, 64)
    usual = tiny().eval()
    with torch.no_grad():
        other = tiny(window_size=4).eval()
        other.load_state_dict(usual.state_dict())
        assert not torch.allclose(other(x), usual(x))
        finer = tiny(merging=(((4, 4),), ((4, 2),), ((4, 1),)), sr_ratios=(4, 2, 1)).eval()
        assert [len(m.merge) for m in finer.modules() if hasattr(m, "merge")] == [1, 1, 1]
        assert [m.sr_ratio for m in finer.modules() if isinstance(m, HybridAttention)] == [4, 2, 1]
        assert finer(x).isfinite().all()


def test_gradient_checkpointing_changes_nothing() -> None:
    model = tiny(drop_path_rate=0.2)
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 96)
    for m in (model, other):
        torch.manual_seed(1)
        m(x).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite(dtype: torch.dtype) -> None:
    model = tiny()
    x = torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", dtype):
        logits = model(x)
        assert all(y.dtype == torch.float32 for y in model.significance(x).values())
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
