"""HaloNet: H1 equal to timm's, parameter counts of the paper, key layout, sizes, family options."""

import pytest
import timm
import torch
from torch import nn

import backbones
from backbones.weights import convert_state_dict

PAPER_PARAMS = {  # millions, table 2
    "halonet_h0_256": 5.5,
    "halonet_h1_256": 8.1,
    "halonet_h2_256": 9.4,
    "halonet_h3_320": 11.8,
    "halonet_h4_384": 19.1,
    "halonet_h5_448": 30.7,
    "halonet_h6_512": 43.4,
    "halonet_h7_600": 67.4,
}


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_halonet", num_classes=7, **kwargs)


def draw_weights(model: nn.Module) -> None:
    """Weights that leave no branch silent: timm's fresh ones have zeros in the last norm of each block."""
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            noise = torch.randn(value.shape)
            if key.endswith("running_var"):
                value.copy_(1 + 0.1 * noise.abs())
            elif "_rel" in key:
                value.copy_(noise / value.shape[1] ** 0.5)
            elif value.ndim >= 2:
                value.copy_(noise / value[0].numel() ** 0.5)
            elif key.endswith(("running_mean", "bias")):
                value.copy_(0.1 * noise)
            elif key.endswith("weight"):
                value.copy_(1 + 0.1 * noise)


@pytest.fixture(scope="module")
def h1_and_timms() -> tuple[nn.Module, nn.Module]:
    theirs = timm.create_model("halonet_h1").eval()
    draw_weights(theirs)
    model = backbones.create_model("halonet_h1_256").eval()
    model.load_state_dict(convert_state_dict(theirs.state_dict(), model))
    return model, theirs


@pytest.mark.slow
@pytest.mark.parametrize("size", [256, 512])
def test_h1_equals_timms(size: int, h1_and_timms: tuple[nn.Module, nn.Module]) -> None:
    model, theirs = h1_and_timms
    torch.manual_seed(1)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        their_last, their_maps = theirs.forward_intermediates(x)
        torch.testing.assert_close(model.forward_head(last), theirs.forward_head(their_last), atol=1e-4, rtol=0)
    assert len(maps) == 4 and len(their_maps) == 5  # theirs begin with the stem
    for ours, other in zip(maps, their_maps[1:], strict=True):
        assert other.std() > 0.3
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_h1_tells_relative_positions_apart(h1_and_timms: tuple[nn.Module, nn.Module]) -> None:
    """The comparison above would notice a table that is read one row off."""
    model = backbones.create_model("halonet_h1_256").eval()
    model.load_state_dict(h1_and_timms[0].state_dict())
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        before = model(x)
        model.stages[3].blocks[2].attn.height_rel.copy_(model.stages[3].blocks[2].attn.height_rel.roll(1, 0))
        assert (model(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", PAPER_PARAMS)
def test_parameters_round_to_the_papers(name: str) -> None:
    model = backbones.create_model(name, device="meta")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == PAPER_PARAMS[name]


def test_h1_has_as_many_parameters_as_timms() -> None:
    ours, theirs = (backbones.create_model("halonet_h1_256", device="meta"), timm.create_model("halonet_h1"))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 8_100_056


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_timms_layout_converts_with_no_key_left(wrapper: str | None) -> None:
    """Also the last 1x1 convolution, which halonet_h1 has not."""
    model = tiny()
    own = model.state_dict()

    def to_timm(key: str) -> str:
        key = key.replace("stem.", "stem.conv1.").replace(".blocks.", ".").replace("head.proj.", "final_conv.")
        key = key.replace("attn.height_rel", "attn.pos_embed.height_rel")
        key = key.replace("attn.width_rel", "attn.pos_embed.width_rel").replace(".attn.", ".self_attn.")
        if key.startswith("stages."):
            key = (
                key.replace(".conv1.", ".conv1_1x1.").replace(".conv2.", ".conv3_1x1.").replace(".norm.", ".post_attn.")
            )
        return key

    checkpoint = {
        to_timm(key): value[..., None, None] if value.ndim == 2 and "_rel" not in key and "fc" not in key else value
        for key, value in own.items()
    }
    assert len(checkpoint) == len(own) and not checkpoint.keys() <= own.keys()
    converted = convert_state_dict({wrapper: checkpoint} if wrapper else checkpoint, model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (57, 32), (64, 96), (101, 203), (32, 320), (320, 35)])
def test_any_size_rounds_up(size: tuple[int, int]) -> None:
    model = tiny().eval()
    draw_weights(model)
    with torch.no_grad():
        last, maps = model.forward_intermediates(torch.randn(2, 3, *size))
        logits = model.forward_head(last)
    assert logits.shape == (2, 7) and logits.isfinite().all()
    for y, info in zip(maps, model.feature_info, strict=True):
        assert y.shape == (2, info["num_chs"], *(-(-side // info["reduction"]) for side in size))
        assert y.isfinite().all()


def test_h1_at_a_size_that_timms_refuses() -> None:
    model = backbones.create_model("halonet_h1_256", num_classes=3).eval()
    draw_weights(model)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 75, 49)).isfinite().all()


# The family's own ----------------------------------------------------------------------------------------------------


def test_ratios_set_the_widths() -> None:
    model = tiny(v_ratio=2.0, out_ratio=0.5, widths=(16, 32, 64, 128))
    block = model.stages[1].blocks[0]
    assert block.attn.q.out_features == 32 and block.norm.num_features == 64 and block.conv2.out_features == 16
    assert [info["num_chs"] for info in model.feature_info] == [8, 16, 32, 64]


def test_head_hidden_size_is_an_option() -> None:
    """d_f of the paper's larger models: a 1x1 convolution before pooling, gone when the head is reset."""
    model = tiny(head_hidden_size=40).eval()
    assert model.head_hidden_size == 40 and model.head.fc.in_features == 40
    assert tiny(head_hidden_size=0).head.fc.in_features == model.num_features == 80
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(x)
        torch.testing.assert_close(model(x), model.head.fc(model.head.proj(features).mean((1, 2))))
    model.reset_classifier(5, reset_other=True)
    assert model(x).shape == (2, 5) and model.head.fc.in_features == 80


@pytest.mark.parametrize("option", [{"block_size": 8}, {"halo_size": 2}, {"num_heads": (4, 4, 4, 4)}], ids=str)
def test_attention_options_change_the_result(option: dict) -> None:
    outputs = []
    for kwargs in ({}, option):
        model = tiny(**kwargs).eval()
        draw_weights(model)
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append(model(torch.randn(1, 3, 64, 64)))
    assert not torch.allclose(*outputs, atol=1e-3)


def test_a_fresh_block_is_its_shortcut() -> None:
    """The last norm of each block starts at zero, as in timm."""
    block = tiny().eval().stages[2].blocks[1]
    x = torch.randn(1, 6, 6, 60)
    torch.testing.assert_close(block(x), x.relu())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite(dtype: torch.dtype) -> None:
    model = tiny()
    draw_weights(model)
    x = torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", dtype):
        logits = model(x)
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    for p in model.parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any()
