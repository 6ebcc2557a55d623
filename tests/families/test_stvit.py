"""STViT: equal to the official values, key layout, sizes, super tokens."""

import copy
import re

import pytest
import torch
from torch import nn

import backbones
from backbones.layers import SuperTokenAttention
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

# Without the fixed kernels that the authors' code counts: 162 a block.
OFFICIAL_PARAMS = {"stvit_small": 25_495_624, "stvit_base": 51_691_288, "stvit_large": 94_971_096}


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_stvit", num_classes=7, **kwargs)


@pytest.mark.parametrize("name", ["stvit_small", "stvit_small_256x320"])
def test_equals_the_official_values(name: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model("stvit_small").eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        last, maps = model.forward_intermediates(reference_input(reference))
        logits = model.forward_head(last)
    outputs = {f"stage{i + 1}_last_block (B, C, H, W)": y for i, y in enumerate(maps)}
    outputs["logits (B, num_classes)"] = logits
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)
    fixed = sum(9 * 9 for key in reference["state_dict"] if key.endswith("fold.weights"))
    assert sum(p.numel() for p in model.parameters()) == reference["params"] - fixed


@pytest.mark.parametrize("name", OFFICIAL_PARAMS)
def test_parameters(name: str) -> None:
    model = backbones.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == OFFICIAL_PARAMS[name]


# Checkpoints ---------------------------------------------------------------------------------------------------------


def to_official(key: str) -> str:
    """Our key -> the authors' code's."""
    key = re.sub(r"^stem\.", "patch_embed.", key)
    key = re.sub(
        r"^stages\.(\d)\.downsample\.(proj|norm)\.",
        lambda m: f"layers.{int(m[1]) - 1}.downsample.proj.{'proj norm'.split().index(m[2])}.",
        key,
    )
    key = key.replace("stages.", "layers.").replace(".pos_embed.proj.", ".pos_embed.conv.")
    key = key.replace(".norm1.", ".norm1.norm.").replace(".attn.", ".attn.stoken_refine.")
    key = key.replace(".mlp.dwconv.", ".mlp2.conv.conv.").replace(".mlp.", ".mlp2.")
    key = re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", key)
    return key.replace("head.proj.conv.", "proj.").replace("head.proj.norm.", "norm.").replace("head.fc.", "head.")


def is_fixed(key: str) -> bool:
    return key.endswith(("unfold.weights", "fold.weights"))


def test_layout_of_the_official_checkpoint() -> None:
    """The names that this file translates to are those of the recorded checkpoint, its fixed kernels apart."""
    model = backbones.create_model("stvit_small", device="meta")
    recorded = {key for key in load_reference("stvit_small")["state_dict"] if not is_fixed(key)}
    assert {to_official(key) for key in model.state_dict()} == recorded


@pytest.mark.parametrize("wrapper", [None, "model"])
def test_layout_converts_with_no_key_left(wrapper: str | None) -> None:
    model = tiny()  # has layer scale, as the base and large models
    own = model.state_dict()
    checkpoint = {to_official(key): value for key, value in own.items()}
    for key in own:
        if key.endswith("ls1.gamma"):
            checkpoint[to_official(key)] = own[key].view(1, -1, 1, 1)
        elif key.endswith("qkv.weight"):
            checkpoint[to_official(key)] = own[key][:, :, None, None]
            block = to_official(key).partition(".stoken_refine")[0]
            checkpoint |= {f"{block}.{part}.weights": torch.eye(9).view(9, 1, 3, 3) for part in ("unfold", "fold")}
    if wrapper:
        checkpoint = {wrapper: checkpoint, "model_ema": {k: v + 1 for k, v in checkpoint.items()}, "max_accuracy": 83.6}
    converted = convert_state_dict(checkpoint, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


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


# The family's own ----------------------------------------------------------------------------------------------------


def test_association_for_pictures() -> None:
    model = tiny(depths=(2, 1, 1, 1)).eval()
    x = torch.randn(2, 3, 100, 70)
    maps = model.association(x)
    assert {name: tuple(y.shape) for name, y in maps.items()} == {
        "stages.0.blocks.0": (2, 25, 18, 9),
        "stages.0.blocks.1": (2, 25, 18, 9),
        "stages.1.blocks.0": (2, 13, 9, 9),
    }
    # The first is what the first attention uses; no hook stays behind.
    first = model.stages[0].blocks[0]
    with torch.no_grad():
        attn_input = first.norm1(first.pos_embed(model.stem(x.permute(0, 2, 3, 1))))
        torch.testing.assert_close(maps["stages.0.blocks.0"], first.attn.association(attn_input))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_cell_sizes_are_an_option() -> None:
    x = torch.randn(1, 3, 64, 64)
    usual, dense = tiny().eval(), tiny(cell_sizes=(16, 8, 2, 1)).eval()  # larger cells suit larger images
    assert [m.cell_size for m in dense.modules() if isinstance(m, SuperTokenAttention)] == [16, 8, 2, 2, 1]
    dense.load_state_dict(usual.state_dict())
    with torch.no_grad():
        assert not torch.allclose(usual(x), dense(x))


def test_layer_scale_is_where_the_published_models_have_it() -> None:
    for name, scaled in (("stvit_small", set()), ("stvit_base", {"2", "3"}), ("stvit_large", {"2", "3"})):
        keys = backbones.create_model(name, device="meta").state_dict()
        assert {key.split(".")[1] for key in keys if key.endswith("gamma")} == scaled


def test_head_widens_before_it_pools() -> None:
    model = tiny().eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        last = model.forward_features(x)
        pooled = model.head.proj(last).mean((1, 2))
        assert last.shape == (2, 2, 3, 64) and pooled.shape == (2, 128)
        torch.testing.assert_close(model.forward_head(last, pre_logits=True), pooled)
        torch.testing.assert_close(model(x), model.head.fc(pooled))


def test_batch_norms_convert_to_synchronised_ones() -> None:
    model = tiny()
    count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert count == 4 + 3 + 5 + 1  # stem, downsampling, blocks, head
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == count
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(converted.eval()(x), model.eval()(x))


def test_gradient_checkpointing_changes_nothing() -> None:
    model = tiny(drop_path_rate=0.2)
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 96)
    for m in (model, other):
        torch.manual_seed(1)
        m(x).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite(dtype: torch.dtype) -> None:
    model = tiny()
    x = torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", dtype):
        logits = model(x)
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
