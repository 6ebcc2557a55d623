"""PT-DiT: the released code's values, variants, sizes, conditions, training, features, weights, mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import backbones
from backbones.cli import convert
from backbones.kernels import set_fast_kernels
from backbones.layers import MultiHeadAttention
from backbones.layers.functional import sincos_grid, window_grid
from backbones.models.ptdit import VARIANTS, PTDiT
from backbones.weights import convert_state_dict, restore_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict

REFERENCES = ("ptdit_tiny_image_w8_p8", "ptdit_tiny_image_w8_p4", "ptdit_tiny_video_w244")


@pytest.mark.parametrize("name", REFERENCES)
def test_values_of_the_released_code(name: str) -> None:
    reference = load_reference(name)
    model = PTDiT.from_official_config(reference["config"]).eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    assert sum(p.numel() for p in model.parameters()) == reference["params"]
    state = np.random.RandomState(0)
    x, text = (
        torch.from_numpy(state.standard_normal(reference[key]).astype(np.float32))
        for key in ("input_shape", "text_shape")
    )
    times, mask = torch.tensor(reference["timesteps"]), torch.tensor(reference["text_mask"])
    with torch.no_grad():
        output = model(x, times, context=text[:, 0], context_mask=mask)
        maps = model.forward_intermediates(
            x, output_fmt="NHWC", intermediates_only=True, timesteps=times, context=text[:, 0], context_mask=mask
        )
        embedded = model.stem(x)
    recorded = reference["outputs"]
    assert_matches(output, recorded["output (B, C_out, F, H, W)"])
    assert_matches(embedded.flatten(0, 1).flatten(1, 2), recorded["pos_embed"])
    windows = tuple(reference["config"]["compress_ratios"])
    for key, y in (("block0", maps[0]), ("last_block", maps[-1])):
        f, h, w = (side // size for side, size in zip(y.shape[1:4], windows, strict=True))
        y = y.unflatten(3, (w, -1)).unflatten(2, (h, -1)).unflatten(1, (f, -1)).permute(0, 1, 3, 5, 2, 4, 6, 7)
        assert_matches(y.flatten(0, 3).flatten(1, 3), recorded[key])


def randomised(name: str = "test_ptdit", **kwargs: Any) -> PTDiT:
    """A model whose every branch is open, as after training."""
    torch.manual_seed(0)
    model = backbones.create_model(name, **kwargs)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.05)
    return model.eval()


def text_model(**kwargs: Any) -> PTDiT:
    return randomised(text_dim=24, shared_modulation=True, num_classes=0, **kwargs)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Variants ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", backbones.list_models("*ptdit*"))
def test_variants_are_built_without_memory(name: str) -> None:
    model = timm.create_model(name, device="meta")
    assert all(p.is_meta for p in model.state_dict().values())
    config = model.pretrained_cfg
    inputs = model.example_inputs(2, *config["input_size"][1:])
    assert model(*inputs).shape == (2, model.out_chans, *config["input_size"][1:])
    assert model.num_classes == config["num_classes"] == (0 if name.endswith("_text") else 1000)
    assert model.no_weight_decay() <= model.state_dict().keys()
    for info in model.feature_info:
        assert model.get_submodule(info["module"]) is not None


def test_tasks_tell_generators_from_classifiers() -> None:
    generators = backbones.list_models(task="generation")
    assert set(generators) == set(backbones.list_models("*ptdit*"))
    assert set(backbones.list_models()) == {*generators, *backbones.list_models(task="classification")}
    assert backbones.list_models("test_*", task="generation") == ["test_ptdit"]
    with pytest.raises(ValueError, match="no model has the task 'detection'; there are classification, generation"):
        backbones.list_models(task="detection")


def test_windows_follow_the_resolution() -> None:
    """64 windows at every resolution, and the nearest for sizes between; a window that is given stays."""
    config = VARIANTS["ptdit_xl_text"]
    for pixels, side in ((256, 2), (512, 4), (1024, 8), (2048, 16)):
        tokens = pixels // 16
        assert config.window(1, tokens, tokens) == (1, side, side)
        assert (tokens // side) ** 2 == 64
    assert config.window(12, 32, 32) == (4, 4, 4)
    assert config.window(1, 20, 40) == (1, 4, 4) and config.window(1, 4, 4) == (1, 2, 2)
    assert randomised(window_size=(1, 4, 4)).cfg.window(9, 99, 99) == (1, 4, 4)


def test_a_proxy_of_a_part_of_the_window() -> None:
    x = noise(1, 4, 16, 16)
    whole = randomised(window_size=(1, 4, 4))(x, 500)
    assert torch.equal(whole, randomised(window_size=(1, 4, 4), proxy_size=(1, 4, 4))(x, 500))
    assert not torch.allclose(whole, randomised(window_size=(1, 4, 4), proxy_size=(1, 2, 2))(x, 500))
    with pytest.raises(ValueError, match=r"window_size \(1, 4, 4\) is not a multiple of proxy_size \(1, 3, 3\)"):
        randomised(window_size=(1, 4, 4), proxy_size=(1, 3, 3))
    with pytest.raises(ValueError, match="give window_size too"):
        randomised(proxy_size=(1, 2, 2))


def test_fresh_models_predict_nothing_and_keep_branches_closed() -> None:
    for model in (backbones.create_model("test_ptdit"), backbones.create_model("test_ptdit", shared_modulation=True)):
        assert not model(noise(1, 4, 16, 16), 500).any()
        for block in model.stages[0].blocks:
            assert not block.proxy.out.weight.any() and not block.shifted_out.weight.any()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    assert torch.equal(model.stem.pos_embed, before["stem.pos_embed"])
    assert not torch.equal(model.stem.proj.weight, before["stem.proj.weight"])


# Sizes ---------------------------------------------------------------------------------------------------------------

SIZES = [(16, 16), (2, 2), (6, 10), (20, 12), (36, 30), (3, 8, 8), (5, 6, 10)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_any_size(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(out_chans=3, window_size=(2, 4, 4), proxy_size=(2, 2, 2))
    x, times = noise(2, 4, *size), torch.tensor([10.0, 900.0])
    with torch.no_grad():
        y = model(x, times)
        assert y.shape == (2, 3, *size) and y.isfinite().all()
        # What the padding holds makes no difference.
        pad = nn.functional.pad
        monkeypatch.setattr(nn.functional, "pad", lambda x, pads: pad(x, pads, value=100.0))
        torch.testing.assert_close(model(x, times), y, atol=1e-4, rtol=1e-3)


def test_padding_is_what_is_compared() -> None:
    """The sizes above that are no multiples of the window are padded: 3 x 5 tokens to 4 x 8."""
    grid = window_grid((1, 3, 5), (1, 4, 4), torch.device("cpu"))
    assert grid.padded == (1, 4, 8) and grid.partition(torch.ones(1, 1, 3, 5, 1)).sum() == 15


def test_sizes_may_change_from_call_to_call() -> None:
    """Transposed grids have as many windows, so that tables of the other one would go unnoticed."""
    model, sizes = randomised(), [(8, 16), (16, 8), (8, 16), (12, 12)]
    with torch.no_grad():
        in_turn = [model(noise(1, 4, *size), 500) for size in sizes]
        for size, y in zip(sizes, in_turn, strict=True):
            window_grid.cache_clear()
            sincos_grid.cache_clear()
            assert torch.equal(model(noise(1, 4, *size), 500), y)


def test_positions_of_grids_that_are_not_square() -> None:
    """A row has the same first half everywhere, a column the same second half; no table is stored for this size."""
    model = randomised()
    with torch.no_grad():
        model.stem.proj.weight.zero_(), model.stem.proj.bias.zero_()
        positions = model.stem(torch.zeros(1, 4, 1, 8, 20))[0, 0]
        square = model.stem(torch.zeros(1, 4, 1, 16, 16))[0, 0]  # the stored table
    assert positions.shape == (4, 10, 64)
    torch.testing.assert_close(positions[:, :8], square[:4])
    column, row = positions[..., 16:40], positions[..., 40:]
    assert torch.equal(column, column[:1].expand_as(column)) and torch.equal(row, row[:, :1].expand_as(row))


def test_an_image_is_a_video_of_one_frame() -> None:
    model, x = randomised(), noise(2, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x, 500), model(x[:, :, None], 500)[:, :, 0])


# Conditions ----------------------------------------------------------------------------------------------------------


def test_every_sample_has_its_own_time_and_class() -> None:
    x, times, y = noise(3, 4, 16, 16), torch.tensor([0.0, 333.25, 1000.0]), torch.tensor([1, 1000, 7])
    model, text, states = randomised(), text_model(), noise(3, 5, 24)
    with torch.no_grad():
        together, with_text = model(x, times, y=y), text(x, times, states)
        for i in range(3):
            one = slice(i, i + 1)
            torch.testing.assert_close(model(x[one], times[one], y=y[one]), together[one], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(text(x[one], times[one], states[one]), with_text[one], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(model(x, 0.0, y=y), together, atol=1e-3)
        torch.testing.assert_close(model(x, 500, y=y), model(x, torch.full((3,), 500.0), y=y))


def test_without_a_class_it_is_the_null_class() -> None:
    model, x = randomised(num_classes=7), noise(2, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x, 500), model(x, 500, y=torch.tensor([7, 7])))
        assert not torch.allclose(model(x, 500), model(x, 500, y=torch.tensor([7, 0])))
    unconditional = randomised(num_classes=0)
    assert unconditional.class_embed is None and unconditional(x, 500).shape == x.shape


def test_masked_text_is_not_read() -> None:
    model, x, states = text_model(), noise(2, 4, 16, 16), noise(2, 5, 24)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        y = model(x, 500, states, mask)
        changed = states.clone()
        changed[0, 3:] = 9.0
        torch.testing.assert_close(model(x, 500, changed, mask.bool()), y)
        torch.testing.assert_close(model(x[:1], 500, states[:1, :3])[0], y[0], atol=1e-5, rtol=1e-4)
        assert model(x, 500, states, torch.zeros(2, 5)).isfinite().all()
        assert not torch.allclose(model(x, 500, changed), model(x, 500, states))


def test_times_are_not_rounded_with_half_types() -> None:
    """bfloat16 cannot tell 933.25 from 932: it would round both to 932."""
    model = randomised().bfloat16()
    embedded = model.time_embed(torch.tensor([933.25, 932.0]), torch.zeros(2, 1, dtype=torch.bfloat16))
    assert embedded.dtype == torch.bfloat16 and not torch.equal(embedded[0], embedded[1])
    x = noise(1, 4, 16, 16)
    with torch.no_grad():
        exact, rounded = randomised()(x, 933.25), model(x, 933.25)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() <= 0.1 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite(dtype: torch.dtype) -> None:
    model, x = text_model(), noise(2, 4, 12, 20)
    with torch.autocast("cpu", dtype):
        y = model(x, torch.tensor([1.0, 999.0]), noise(2, 5, 24), torch.ones(2, 5))
    y.square().mean().backward()
    assert y.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [randomised, text_model])
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(build) -> None:
    grads = []
    for enable in (False, True):
        model = build().train()
        model.set_grad_checkpointing(enable)
        condition = {"context": noise(2, 5, 24)} if model.cfg.text_dim else {"y": torch.tensor([0, 1000])}
        y = model(noise(2, 4, 12, 20), torch.tensor([10.0, 700.0]), **condition)
        y.square().mean().backward()
        without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not without
        grads.append({key: p.grad for key, p in model.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad)


def test_it_learns_what_a_class_looks_like() -> None:
    """From the fresh state, whose branches are closed and whose output is zero."""
    torch.manual_seed(0)
    model = backbones.create_model("test_ptdit", num_classes=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    target, y, losses = torch.tensor([1.0, -1.0])[:, None, None, None], torch.tensor([0, 1]), []
    for _ in range(20):
        loss = (model(noise(2, 4, 16, 16), 500, y=y) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == 1.0 and losses[-1] < 0.3


def test_layers_of_decay_go_from_the_latents_to_the_head() -> None:
    groups = timm.models.group_parameters(randomised(), randomised().group_matcher())
    by_name = {name: i for i, names in groups.items() for name in names}
    order = ["stem.proj.weight", "stages.0.blocks.0.attn.q.weight", "stages.0.blocks.3.mlp.fc1.bias", "head.proj.bias"]
    assert [by_name[name] for name in order] == sorted({by_name[name] for name in order})
    assert by_name["class_embed.weight"] == by_name["time_embed.fc1.weight"] == 0


def test_fast_kernels_change_nothing(fast_kernels: None) -> None:
    outputs = []
    for enabled in (True, False):
        set_fast_kernels(enabled)
        with torch.no_grad():
            outputs.append(randomised()(noise(2, 4, 32, 48), torch.tensor([10.0, 700.0])))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-3)


# Features ------------------------------------------------------------------------------------------------------------


def test_features_are_maps_after_blocks() -> None:
    model, x = randomised(), noise(2, 4, 12, 20)
    seen: list[Tensor] = []
    for block in model.stages[0].blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        last, maps = model.forward_intermediates(x, timesteps=torch.tensor([100.0, 500.0]), y=torch.tensor([1, 2]))
        assert len(seen) == len(maps) == 4
        tokens = window_grid((1, 6, 10), (1, 2, 2), x.device).unpartition(seen[2])[:, 0]
        assert torch.equal(maps[2], tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(last, nn.functional.layer_norm(maps[3].movedim(1, -1), (64,), eps=1e-6))
        early = model.forward_intermediates(x, [1], norm=True, stop_early=True, output_fmt="NHWC", timesteps=0)
        assert len(seen) == 6 and early[0].shape == early[1][0].shape == (2, 6, 10, 64)
        torch.testing.assert_close(*early[0:1], early[1][0])
        video = model.forward_intermediates(noise(1, 4, 3, 8, 8), 1, intermediates_only=True)
    assert video[0].shape == (1, 64, 3, 4, 4)
    with pytest.raises(ValueError, match="output_fmt is 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_features_only_at_a_time() -> None:
    x, options = noise(2, 3, 32, 48), {"in_chans": 3, "num_classes": 0}
    for time in (0.0, 250.0):
        model = randomised(features_only=True, out_indices=(0, 2), feature_timestep=time, **options)
        whole = randomised(**options)
        missing, unexpected = whole.load_state_dict(model.model.state_dict(), strict=False)
        assert not unexpected and all(key.startswith(("head.", "stages.0.blocks.3.")) for key in missing)
        with torch.no_grad():
            maps = model(x)
            expected = whole.forward_intermediates(x, [0, 2], intermediates_only=True, timesteps=time)
        for y, z, channels, stride in zip(
            maps, expected, model.feature_info.channels(), model.feature_info.reduction(), strict=True
        ):
            assert y.shape == (2, channels, 32 // stride, 48 // stride) and torch.equal(y, z)
    assert not torch.allclose(maps[0], whole.forward_intermediates(x, [0], intermediates_only=True)[0])


def test_pruned_features_leave_no_parameter_without_a_gradient() -> None:
    model = randomised(features_only=True, out_indices=(1,))
    model(noise(1, 4, 12, 20))[0].square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


# Weights -------------------------------------------------------------------------------------------------------------


def test_a_stored_table_of_another_size_is_computed() -> None:
    reference = load_reference(REFERENCES[0])
    weights = official_state_dict(reference)
    model = PTDiT.from_official_config(reference["config"] | {"sample_size": 64})
    own = model.stem.pos_embed.clone()
    model.load_state_dict(convert_state_dict({"model": weights}, model))
    assert torch.equal(model.stem.pos_embed, own) and own.shape == (1, 1, 1024, 96)
    wide = {key: value for key, value in weights.items()} | {"pos_embed.pos_embed": torch.zeros(1, 1, 256, 48)}
    with pytest.raises(ValueError, match=r"stem.pos_embed has shape \[1, 1, 256, 48\]"):
        convert_state_dict(wide, model)


def test_missing_and_unknown_keys_are_named() -> None:
    reference = load_reference(REFERENCES[0])
    weights = official_state_dict(reference)
    model = PTDiT.from_official_config(reference["config"])
    del weights["transformer_blocks.1.attn3.to_q.weight"]
    with pytest.raises(ValueError, match="missing from the checkpoint: stages.0.blocks.1.shifted_attn.q.weight$"):
        convert_state_dict(weights, model)
    with pytest.raises(ValueError, match="unknown to the model: stages.0.blocks.1.attn9.q.weight"):
        convert_state_dict(weights | {"transformer_blocks.1.attn9.to_q.weight": torch.zeros(1)}, model)


def test_a_file_is_converted_by_the_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = text_model()
    torch.save({"model": restore_state_dict(model.state_dict(), model)}, tmp_path / "official.pth")
    options = [f"--option={key}={value}" for key, value in {"text_dim": 24, "shared_modulation": True}.items()]
    arguments = [
        "--model",
        "test_ptdit",
        *options,
        "--option=num_classes=0",
        "--out",
        str(tmp_path / "own.safetensors"),
    ]
    assert convert.main([str(tmp_path / "official.pth"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "layout: official" in printed and "runs: output [1, 4, 16, 16]" in printed
    own = safetensors.torch.load_file(tmp_path / "own.safetensors")
    assert own.keys() == model.state_dict().keys()
    assert all(torch.equal(own[key], value) for key, value in model.state_dict().items())


def test_released_configuration() -> None:
    """The values of the sheet that comes with the weights, in the names of either version."""
    config = {
        "_class_name": "x",
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "num_layers": 28,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "cross_attention_dim": 1152,
        "caption_channels": 4096,
        "sample_size": 32,
        "frame": 1,
        "compress_ratios": [1, 8, 8],
        "proxy_compress_ratios": [1, 8, 8],
        "norm_type": "ada_norm_single",
        "shift_window": True,
    }
    model = PTDiT.from_official_config(config, device="meta")
    registered = backbones.create_model("ptdit_xl_text", device="meta")
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in registered.state_dict().items()
    }
    assert sum(p.numel() for p in model.parameters()) == 1_131_629_216
    assert model.cfg.window(1, 64, 64) == registered.cfg.window(1, 64, 64) == (1, 8, 8)

    def broken(**changes: Any) -> PTDiT:
        return PTDiT.from_official_config(config | changes, device="meta")

    with pytest.raises(ValueError, match="has no 'num_layer'; did you mean 'num_layers'"):
        broken(num_layer=3)
    with pytest.raises(ValueError, match="norm_type is 'layer_norm'; the released models have 'ada_norm_single'"):
        broken(norm_type="layer_norm")
    with pytest.raises(ValueError, match="cross_attention_dim is None; it must be the width, 1152"):
        broken(cross_attention_dim=None)
    with pytest.raises(ValueError, match="sample_size is 128"):
        broken(sample_size=128)
    del config["num_layers"]
    with pytest.raises(ValueError, match="lacks num_layers"):
        broken()


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(x=noise(2, 3, 16, 16)), r"\(B, 4, H, W\) or \(B, 4, F, H, W\), got \[2, 3, 16, 16\]"),
        (dict(x=noise(4, 16, 16)), r"got \[4, 16, 16\]"),
        (dict(x=noise(2, 4, 15, 16)), "multiples of 2, got 15 x 16"),
        (dict(x=noise(2, 4, 0, 16)), "multiples of 2, got 0 x 16"),
        (dict(timesteps=torch.tensor([1.0, 2.0, 3.0])), r"one a sample, \(2,\); got \[3\]"),
        (dict(y=torch.tensor([0, 8])), r"go from 0 to 6, and 7 stands for none; got \[0, 8\]"),
        (dict(y=torch.tensor([-1, 0])), r"got \[-1, 0\]"),
        (dict(y=torch.tensor([1])), r"an integer class a sample, \(2,\); got \[1\]"),
        (dict(y=torch.tensor([0.0, 1.0])), "torch.float32"),
        (dict(context=noise(2, 5, 24)), "reads no text"),
    ],
)
def test_wrong_input_is_refused(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        randomised(num_classes=7)(**({"x": noise(2, 4, 16, 16), "timesteps": 500} | call))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, r"give context \(B, L, 24\)"),
        (dict(context=noise(2, 5, 25)), r"context is \(2, L, 24\), got \[2, 5, 25\]"),
        (dict(context=noise(1, 5, 24)), r"got \[1, 5, 24\]"),
        (dict(context=noise(2, 5, 24), context_mask=torch.ones(2, 4)), r"context_mask is \[2, 5\], got \[2, 4\]"),
        (dict(context=noise(2, 5, 24), y=torch.tensor([0, 1])), "has no classes"),
    ],
)
def test_wrong_text_is_refused(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_model()(noise(2, 4, 16, 16), 500, **call)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(TypeError, match="no option 'widow_size'; did you mean 'window_size'"):
        backbones.create_model("test_ptdit", widow_size=(1, 2, 2))
    with pytest.raises(ValueError, match="dim 64 is not a multiple of num_heads 5"):
        backbones.create_model("test_ptdit", num_heads=5)
    with pytest.raises(ValueError, match="a width that is a multiple of 16, got 24"):
        backbones.create_model("test_ptdit", embed_dim=24)


# Modules --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [randomised, text_model])
def test_every_module_with_parameters_is_called(build) -> None:
    """An adapter on a layer that is never called would be ignored."""
    model, called = build(), set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    with torch.no_grad():
        model(noise(2, 4, 16, 16), 500, **({"context": noise(2, 5, 24)} if model.cfg.text_dim else {}))
    holders = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert not holders - called
    assert {name for name, m in model.named_modules() if isinstance(m, MultiHeadAttention)} <= called
