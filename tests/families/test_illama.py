"""iLLaMA: equal to the official values, key layout, sizes and position table, soft mask, token features."""

import pytest
import timm
import torch
from torch import nn

import backbones
from backbones.layers import CausalRopeAttention
from backbones.models.illama import resize_positions, soft_mask_rate
from backbones.weights import convert_state_dict, restore_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

OFFICIAL_PARAMS = {
    ("illama_tiny", 224): 5_701_096,
    ("illama_small", 224): 22_018_024,
    ("illama_base", 224): 86_502_376,
    ("illama_base", 384): 86_794_216,
    ("illama_large", 224): 310_445_032,
    ("illama_large", 384): 310_834_152,
}


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_illama", num_classes=7, **kwargs)


def test_equals_the_official_values() -> None:
    reference = load_reference("illama_tiny")
    model = backbones.create_model("illama_tiny").eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    assert sum(p.numel() for p in model.parameters()) == reference["params"]
    with torch.no_grad():
        last, first = model.forward_intermediates(
            reference_input(reference), indices=[0], output_fmt="NLC", return_prefix_tokens=True
        )
    outputs = {
        "first_block (B, N+1, C)": torch.cat(first[0], dim=1),
        "final_norm (B, N+1, C)": last,
        "logits (B, num_classes)": model.forward_head(last),
    }
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)


@pytest.mark.parametrize(("name", "img_size"), OFFICIAL_PARAMS)
def test_parameters(name: str, img_size: int) -> None:
    model = backbones.create_model(name, img_size=img_size, device="meta")
    assert sum(p.numel() for p in model.parameters()) == OFFICIAL_PARAMS[name, img_size]


# Checkpoints ---------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the authors' code's."""
    key = key.replace("stem.proj.", "patch_embed.proj.").replace("stem.", "").replace("stages.0.", "")
    return key.replace(".fc1_g.", ".fc1.").replace(".fc1_x.", ".fc3.").replace("head.fc.", "head.")


def test_layout_of_the_official_checkpoint() -> None:
    """The names that this file translates to are those of the recorded checkpoint."""
    model = backbones.create_model("illama_tiny", device="meta")
    assert {to_official(key) for key in model.state_dict()} == load_reference("illama_tiny")["state_dict"].keys()


@pytest.mark.parametrize("wrapper", [None, "model", "module"])
def test_layout_converts_with_no_key_left(wrapper: str | None) -> None:
    model = tiny()
    own = model.state_dict()
    checkpoint = {to_official(key): value for key, value in own.items()}
    if wrapper:
        checkpoint = {wrapper: checkpoint, "epoch": 3}
    converted = convert_state_dict(checkpoint, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


def test_a_checkpoint_of_another_image_size_resizes_its_table() -> None:
    small, large = tiny(img_size=64).eval(), tiny(img_size=(96, 160)).eval()
    checkpoint = {to_official(key): value for key, value in small.state_dict().items()}
    large.load_state_dict(convert_state_dict(checkpoint, large))
    x = torch.randn(1, 3, 96, 160)
    dynamic = tiny(img_size=64, dynamic_img_size=True).eval()
    dynamic.load_state_dict(small.state_dict())
    with torch.no_grad():  # the same resizing as in a forward pass
        torch.testing.assert_close(large(x), dynamic(x))
    checkpoint["pos_embed"] = checkpoint["pos_embed"][:, :-2]  # of no square image
    with pytest.raises(ValueError, match=r"stem\.pos_embed has shape \[1, 15, 64\], the model's \[1, 61, 64\]"):
        convert_state_dict(checkpoint, large)


@pytest.mark.parametrize(("old", "new"), [((64, 256), (128, 128)), ((64, 256), (128, 512)), ((64, 256), (256, 64))])
def test_the_grid_of_an_image_that_is_not_square_is_recorded(old: tuple[int, int], new: tuple[int, int]) -> None:
    """4 x 16 patches are as many as 8 x 8."""
    first, second = tiny(img_size=old).eval(), tiny(img_size=new).eval()
    for weights in (first.state_dict(), restore_state_dict(first.state_dict(), first)):
        second.load_state_dict(convert_state_dict(weights, second))
        wanted = resize_positions(first.stem.pos_embed, first.stem.grid, second.stem.grid)
        torch.testing.assert_close(second.stem.pos_embed, wanted)
    again = tiny(img_size=old)
    again.load_state_dict(convert_state_dict(first.state_dict(), again))
    assert torch.equal(again.stem.pos_embed, first.stem.pos_embed)
    first.set_input_size(new)
    assert first.state_dict().keys() == second.state_dict().keys()
    torch.testing.assert_close(first.stem.pos_embed, second.stem.pos_embed)


def test_a_table_without_a_record_is_of_a_square_image() -> None:
    square, wide = tiny(img_size=128).eval(), tiny(img_size=(64, 256)).eval()
    assert "stem.grid_size" not in square.state_dict() and wide.state_dict()["stem.grid_size"].tolist() == [4, 16]
    wide.load_state_dict(convert_state_dict(square.state_dict(), wide))
    torch.testing.assert_close(wide.stem.pos_embed, resize_positions(square.stem.pos_embed, (8, 8), (4, 16)))
    with pytest.raises(RuntimeError, match="grid_size"):
        square.load_state_dict(wide.state_dict())


@pytest.mark.parametrize("tag", ["in1k", "in1k_384", "in21k_ft_in1k", "in21k_ft_in1k_384"])
def test_tags_choose_image_size_and_crop(tag: str) -> None:
    model = timm.create_model(f"illama_base.{tag}", device="meta")
    side = 384 if tag.endswith("384") else 224
    assert model.stem.pos_embed.shape[1] == (side // 16) ** 2 + 1
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (3, side, side)
    assert (data["crop_pct"], data["crop_mode"]) == ((1.0, "squash") if side == 384 else (0.875, "center"))
    assert data["interpolation"] == "bicubic"
    assert model.pretrained_cfg["url"].endswith(".pth")


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (57, 32), (64, 96), (101, 203), (32, 320), (320, 35)])
def test_any_size_rounds_up_to_whole_patches(size: tuple[int, int], training: bool) -> None:
    model = tiny(dynamic_img_size=True).train(training)
    rows, columns = (-(-side // 16) for side in size)
    with torch.no_grad():
        last, maps = model.forward_intermediates(torch.randn(2, 3, *size))
        logits = model.forward_head(last)
    assert last.shape == (2, rows * columns + 1, 64)
    assert len(maps) == len(model.feature_info) == 4
    assert all(y.shape == (2, 64, rows, columns) and y.isfinite().all() for y in maps)
    assert logits.shape == (2, 7) and logits.isfinite().all()


def test_padding_is_at_the_bottom_and_right() -> None:
    model = tiny(img_size=(64, 48)).eval()
    x = torch.randn(1, 3, 50, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(nn.functional.pad(x, (0, 8, 0, 14))))


def test_another_size_needs_an_option() -> None:
    x = torch.randn(1, 3, 64, 128)
    model = tiny().eval()
    with pytest.raises(ValueError, match=r"4 x 8 patches, the position table 6 x 6: .*dynamic_img_size=True"):
        model(x)
    with pytest.raises(ValueError, match="img_size 20 is below 32 pixels"):
        tiny(img_size=20)
    dynamic = tiny(dynamic_img_size=True).eval()
    with torch.no_grad():
        before = dynamic(x)
        model.set_input_size((64, 128))
        assert model.stem.pos_embed.shape == (1, 4 * 8 + 1, 64)
        assert model.cfg.img_size == (64, 128)
        torch.testing.assert_close(model(x), before)


def test_resizing_keeps_the_class_slot_and_the_order_of_rows() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    table = torch.stack([rows.flatten(), columns.flatten()], dim=-1)[None]
    table = torch.cat([table, torch.full((1, 1, 2), 99.0)], dim=1)
    assert torch.equal(resize_positions(table, (4, 6), (4, 6)), table)
    larger = resize_positions(table, (4, 6), (8, 12))
    assert larger.shape == (1, 8 * 12 + 1, 2)
    assert torch.equal(larger[:, -1], table[:, -1])
    grid = larger[0, :-1].view(8, 12, 2)
    # A ramp is sampled at (i + 1 / 2) / 2 - 1 / 2; the cubic kernel (a = -0.75) bends it by less than 0.05.
    torch.testing.assert_close(grid[3, 4], torch.tensor([1.25, 1.75]), atol=0.05, rtol=0)


# The family's own ----------------------------------------------------------------------------------------------------


def test_soft_mask_rate_reaches_every_block() -> None:
    model = tiny().eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        outputs = []
        for rate in (0.0, 0.5, 1.0):
            model.set_soft_mask_rate(rate)
            assert {m.soft_mask_rate for m in model.modules() if isinstance(m, CausalRopeAttention)} == {rate}
            outputs.append(model(x))
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])
    with pytest.raises(ValueError, match="from 0 .* to 1 .*, got 1.5"):
        model.set_soft_mask_rate(1.5)


def test_soft_mask_schedules() -> None:
    assert [soft_mask_rate(p, "constant") for p in (0.0, 0.99, 1.0, 5.0)] == [1.0, 1.0, 0.0, 0.0]
    assert [soft_mask_rate(p, "linear") for p in (0.0, 0.25, 1.0, 5.0)] == [1.0, 0.75, 0.0, 0.0]
    with pytest.raises(ValueError, match="'cosine' is neither 'constant' nor 'linear'"):
        soft_mask_rate(0.0, "cosine")


def test_pooling() -> None:
    model = tiny().eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        tokens = model.forward_features(x)
        assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, -1])
        model.reset_classifier(5, "avg")
        assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, :-1].mean(1))
        assert model(x).shape == (2, 5)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), tokens)
    with pytest.raises(ValueError, match="global_pool 'max' is not one of \\('token', 'avg', ''\\)"):
        tiny(global_pool="max")


def test_intermediates_are_the_patches_after_blocks() -> None:
    model = tiny().eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        last, pairs = model.forward_intermediates(x, [1, 3], norm=True, return_prefix_tokens=True)
        patches, class_token = pairs[-1]
        torch.testing.assert_close(torch.cat([patches.flatten(2).mT, class_token], dim=1), last)
        flat = model.forward_intermediates(x, [1, 3], output_fmt="NLC", intermediates_only=True)
        maps = model.forward_intermediates(x, [1, 3], output_fmt="NHWC", intermediates_only=True)
        early = model.forward_intermediates(x, [1], stop_early=True, output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(maps[0].flatten(1, 2), flat[0])
    assert torch.equal(early[0], maps[0])
    with pytest.raises(ValueError, match="output_fmt is 'NCL'"):
        model.forward_intermediates(x, output_fmt="NCL")


def test_features_only_gives_the_last_three_blocks() -> None:
    features = backbones.create_model("test_illama", features_only=True)
    assert features.feature_info.module_name() == [f"stages.0.blocks.{i}" for i in (1, 2, 3)]
    assert [tuple(y.shape) for y in features(torch.randn(1, 3, 96, 96))] == [(1, 64, 6, 6)] * 3
