"""What every model owes its users, for all that are registered: a new family is tested by being there."""

import copy
import dataclasses
import importlib
import inspect
import io
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import backbones
from backbones.kernels import set_fast_kernels
from backbones.models import _registry
from backbones.models._pyramid import image_to_map

ALL = backbones.list_models()
CLASSIFIERS = backbones.list_models(task="classification")
TINY = backbones.list_models("test_*", task="classification")
FAMILIES = sorted({timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in ALL})

# What a family needs to take any size.
ANY_SIZE: dict[str, dict[str, Any]] = {"test_illama": {"dynamic_img_size": True}}  # a learned table of positions
# Side of a level from the image's side and the level's stride; without an entry it is rounded up.
LEVEL_SIDES: dict[str, Callable[[int, int], int]] = {
    "test_litv2": lambda side, stride: math.ceil(side / 4) // (stride // 4),  # merging drops an odd last row
}
SIZES = [(32, 32), (33, 47), (64, 96), (32, 200), (203, 35), (101, 77)]  # (height, width)


def tiny(name: str, **kwargs: Any) -> nn.Module:
    """A small model with fixed random weights that takes any size."""
    torch.manual_seed(0)
    return backbones.create_model(name, **{"num_classes": 7, **ANY_SIZE.get(name, {}), **kwargs})


def images(height: int = 64, width: int = 96, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Two photographs, 96 x 144, normalised."""
    x = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2) / 255
    return nn.functional.interpolate((x - 0.45) / 0.225, (96, 144), mode="bilinear", antialias=True)


def test_every_family_has_a_tiny_variant() -> None:
    every_tiny = backbones.list_models("test_*")
    assert {timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in every_tiny} == set(FAMILIES)
    for name in every_tiny:
        assert sum(p.numel() for p in backbones.create_model(name, device="meta").parameters()) < 1_000_000


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_variant_is_built_without_memory(name: str) -> None:
    model = backbones.create_model(name, device="meta", num_classes=7)  # some published weights have no classifier
    assert all(p.is_meta for p in model.parameters())
    assert model.pretrained_cfg["input_size"][0] == 3
    entries = model.state_dict()
    for key in ("first_conv", "classifier"):
        assert f"{model.pretrained_cfg[key]}.weight" in entries
    assert model.get_classifier().out_features == model.num_classes == 7
    assert model.no_weight_decay() <= entries.keys()
    for info in model.feature_info:
        assert model.get_submodule(info["module"]) is not None


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", TINY)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    """With the option that tools pass for it: iLLaMA needs it, the others take any size as they are."""
    model = tiny(name, dynamic_img_size=True).eval()
    with torch.no_grad():
        last, maps = model.forward_intermediates(images(*size))
        logits = model.forward_head(last)
    assert logits.shape == (2, 7) and logits.isfinite().all()
    side = LEVEL_SIDES.get(name, lambda side, stride: math.ceil(side / stride))
    for y, info in zip(maps, model.feature_info, strict=True):
        assert y.shape == (2, info["num_chs"], *(side(n, info["reduction"]) for n in size))
        assert y.isfinite().all()


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = tiny(name, drop_path_rate=0.1).train()
    model(images()).square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("name", TINY)
def test_checkpointing_changes_nothing(name: str) -> None:
    results = []
    for enable in (False, True):
        model = tiny(name).train()
        model.set_grad_checkpointing(enable)
        logits = model(images())
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("name", TINY)
def test_intermediates_end_in_the_features(name: str) -> None:
    model = tiny(name).eval()
    with torch.no_grad():
        features = model.forward_features(images())
        last, maps = model.forward_intermediates(images())
        torch.testing.assert_close(last, features)
        torch.testing.assert_close(model(images()), model.forward_head(features))
        native = model.forward_intermediates(images(), indices=[1, 2], output_fmt="NHWC", intermediates_only=True)
        early = (
            model.forward_intermediates(images(), indices=[1, 2], stop_early=True, intermediates_only=True)
            if len(maps) > 2
            else maps[1:3]
        )
    assert len(native) == len(early) == 2
    for i, (nhwc, nchw) in enumerate(zip(native, early, strict=True), start=1):
        torch.testing.assert_close(nhwc.permute(0, 3, 1, 2), maps[i])
        torch.testing.assert_close(nchw, maps[i])


@pytest.mark.parametrize("name", TINY)
def test_features_only_is_what_it_says(name: str) -> None:
    whole = tiny(name).eval()
    model = tiny(name, features_only=True, out_indices=(1, 2)).eval()
    model.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        maps = model(images(96, 128))
        expected = whole.forward_intermediates(images(96, 128), indices=[1, 2], intermediates_only=True)
    info = model.feature_info
    assert len(maps) == 2
    for y, z, channels, stride in zip(maps, expected, info.channels(), info.reduction(), strict=True):
        assert y.shape == (2, channels, 96 // stride, 128 // stride)
        torch.testing.assert_close(y, z)


@pytest.mark.parametrize("name", TINY)
def test_features_are_checkpointed_like_timms(name: str) -> None:
    grads = []
    for enable in (False, True):
        model = tiny(name, features_only=True, out_indices=(0, 1)).train()
        model.set_grad_checkpointing(enable)
        assert all(stage.grad_checkpointing is enable for stage in model.model.stages)
        sum(y.square().sum() for y in model(images())).backward()
        grads.append({key: p.grad for key, p in model.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad)


@pytest.mark.parametrize("name", ALL)
def test_dynamic_img_size_is_taken_by_all(name: str) -> None:
    """Tools pass it to every name with "vit" in it."""
    assert backbones.create_model(name, device="meta", dynamic_img_size=True) is not None


@pytest.mark.parametrize("name", backbones.list_models("test_*"))
def test_a_model_made_without_memory_becomes_usable(name: str) -> None:
    state = torch.get_rng_state()
    model = backbones.create_model(name, device="meta")
    model.init_weights()
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(float("nan") if value.is_floating_point() else -1)
    model.init_weights()
    made = backbones.create_model(name)
    for (key, value), wanted in zip(model.state_dict().items(), made.state_dict().values(), strict=True):
        assert value.isfinite().all(), key
        constant = wanted.numel() > 1 and (wanted == wanted.flatten()[0]).all()
        if constant or key in dict(made.named_buffers()):
            torch.testing.assert_close(value, wanted, msg=key)
        elif wanted.numel() > 64:
            assert 0.5 < (value.std() / wanted.std()).item() < 2, key


@pytest.mark.parametrize("name", TINY)
def test_reset_classifier(name: str) -> None:
    model = tiny(name).eval()
    model.reset_classifier(5)
    assert model.num_classes == model.get_classifier().out_features == 5
    with torch.no_grad():
        assert model(images()).shape == (2, 5)
        model.reset_classifier(0)
        assert model(images()).shape == (2, model.head_hidden_size)
        model.reset_classifier(0, "")
        assert model(images()).shape[0] == 2 and model(images()).ndim > 2


@pytest.mark.parametrize("name", TINY)
def test_without_classes_it_gives_what_the_classifier_would_see(name: str) -> None:
    whole, headless = tiny(name).eval(), tiny(name, num_classes=0).eval()
    headless.load_state_dict({key: value for key, value in whole.state_dict().items() if not key.startswith("head.fc")})
    with torch.no_grad():
        seen = whole.forward_head(whole.forward_features(images()), pre_logits=True)
        torch.testing.assert_close(headless(images()), seen)
        torch.testing.assert_close(whole(images()), whole.get_classifier()(seen))


@pytest.mark.parametrize("name", TINY)
def test_one_channel_from_weights_of_three(name: str, tmp_path) -> None:
    """A grey image gives what it gives as three equal channels to the model the weights are from."""
    colour = tiny(name).eval()
    torch.save(colour.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 7}
    grey = tiny(name, in_chans=1, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = images(channels=1)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_no_images_give_no_logits(name: str, training: bool) -> None:
    """A detector's last batch may be cut to nothing."""
    model = tiny(name).eval()
    with torch.set_grad_enabled(training):
        logits = model(images()[:0])
        maps = model.forward_intermediates(images()[:0], intermediates_only=True)
    assert logits.shape == (0, 7)
    for y, z in zip(maps, model.forward_intermediates(images(), intermediates_only=True), strict=True):
        assert y.shape == (0, *z.shape[1:])


@pytest.mark.parametrize("name", TINY)
def test_memory_format_of_the_image_does_not_matter(name: str) -> None:
    model = tiny(name).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images().to(memory_format=torch.channels_last)), model(images()))


def test_an_image_becomes_a_map_under_any_transform() -> None:
    x = images()
    for y in (x, x.to(memory_format=torch.channels_last), x[:, :, ::2]):
        assert image_to_map(y, 3).is_contiguous() and torch.equal(image_to_map(y, 3), y.permute(0, 2, 3, 1))
    mapped = torch.func.vmap(lambda image: image_to_map(image[None], 3)[0])(x)
    assert torch.equal(mapped, x.permute(0, 2, 3, 1))


@pytest.mark.parametrize("name", TINY)
def test_a_copy_and_a_saved_state_give_the_same(name: str) -> None:
    model = tiny(name).eval()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    loaded = backbones.create_model(name, num_classes=7, **ANY_SIZE.get(name, {})).eval()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        expected = model(images())
        torch.testing.assert_close(copy.deepcopy(model)(images()), expected)
        torch.testing.assert_close(loaded(images()), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TINY)
def test_autocast_stays_finite(name: str, dtype: torch.dtype, photographs: Tensor) -> None:
    model = tiny(name)
    for x in (images(), photographs):
        with torch.autocast("cpu", dtype):
            logits = model(x)
        logits.float().square().sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        exact = model(photographs)
        with torch.autocast("cpu", dtype):
            rounded = model(photographs)
    assert (rounded - exact).abs().max() <= 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", TINY)
def test_fast_kernels_change_nothing(name: str, fast_kernels: None) -> None:
    """Neither in inference, where more is fused, nor in training."""
    results = []
    for enabled in (True, False):
        set_fast_kernels(enabled)
        model = tiny(name).eval()
        with torch.no_grad():
            outputs = [*model.forward_intermediates(images(), intermediates_only=True), model(images())]
        logits = model(images())
        logits.square().sum().backward()
        results.append((outputs, [logits, *(p.grad for p in model.parameters())]))
    for fast, plain in zip(*results, strict=True):
        for a, b in zip(fast, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4 * max(1.0, b.detach().abs().max().item()), rtol=1e-3)


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_wrong_images_are_refused(name: str) -> None:
    model = tiny(name).eval()
    for size in ((31, 64), (64, 16)):
        with pytest.raises(ValueError, match=f"at least 32 x 32 pixels, got {size[0]} x {size[1]}"):
            model(images(*size))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \[2, 4, 64, 64\]"):
        model(images(64, 64, channels=4))
    with pytest.raises(ValueError, match=r"expected images"):
        model(images()[0])


@pytest.mark.parametrize("name", TINY)
def test_wrong_options_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="no option 'drop_path_rat'; did you mean 'drop_path_rate'"):
        backbones.create_model(name, drop_path_rat=0.1)
    with pytest.raises(ValueError, match="global_pool 'median' is not one of"):
        backbones.create_model(name, global_pool="median")
    for option, value, limits in (
        ("num_classes", -3, "0 or more"),
        ("num_classes", "10", "0 or more"),
        ("in_chans", 0, "1 or more"),
        ("drop_path_rate", 1.5, "from 0 to below 1"),
        ("drop_path_rate", "0.1", "from 0 to below 1"),
    ):
        with pytest.raises(ValueError, match=f"{option} of {name} is a .*number.* {limits}, not {value!r}"):
            backbones.create_model(name, **{option: value})
    with pytest.raises(ValueError, match=f"no weights of {name} are called 'in1kk'"):
        backbones.create_model(f"{name}.in1kk")
    with pytest.raises(ValueError, match="output_fmt is 'CHWN'"):
        tiny(name).forward_intermediates(images(), output_fmt="CHWN")


def test_unknown_models_are_refused_with_near_names() -> None:
    for wrong, near in (("van_b10", "van_b1"), ("litv2_small", "litv2_s"), ("sgformer_t", "sgformer_")):
        with pytest.raises(ValueError, match=f"no model is called '{wrong}'; did you mean .*{near}"):
            backbones.create_model(wrong)
    with pytest.raises(ValueError, match="ours are .*van_b0"):
        backbones.create_model("qqqqqqqqqq")


def test_a_model_of_timms_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        backbones.create_model("davit_tiny", device="meta")
    assert "davit_tiny is timm's model; this package's is davit_tiny_window7_224" in caplog.text
    with pytest.raises(ValueError, match=r"did you mean .*davit_tiny \(timm's\)"):
        backbones.create_model("davit_tinny")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        backbones.create_model("resnet18", device="meta")
        backbones.create_model("test_davit", device="meta")
    assert not caplog.text


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_entry_points_can_be_imported_and_say_what_they_take(name: str) -> None:
    model_cls = _registry._variants[name]
    module = importlib.import_module(model_cls.__module__)
    entry = getattr(module, name)  # where it is missing: name what register_variants returns, in the order of VARIANTS
    assert entry is timm.models.model_entrypoint(name) and entry.__name__ == name in module.__all__
    config = module.VARIANTS[name]
    taken = inspect.signature(entry).parameters
    assert taken["pretrained"].default is False and "num_classes" in taken
    assert {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}.items() <= {
        key: parameter.default for key, parameter in taken.items()
    }.items()
    assert isinstance(entry(device="meta"), model_cls)


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_and_configs_are_exported(family: str) -> None:
    module = importlib.import_module(f"backbones.models.{family}")
    for config in {type(cfg).__name__ for cfg in module.VARIANTS.values()}:
        assert config in module.__all__ and getattr(backbones.models, config) is getattr(module, config)
    for model_cls in {_registry._variants[name].__name__ for name in module.VARIANTS}:
        assert model_cls in module.__all__ and getattr(backbones.models, model_cls) is getattr(module, model_cls)


def test_parameters_are_timms() -> None:
    ours, theirs = (inspect.signature(m.list_models).parameters for m in (backbones, timm))
    assert [(p.name, p.default) for p in ours.values()] == [
        *((p.name, p.default) for p in theirs.values()),
        ("task", None),
    ]
    ours, theirs = (inspect.signature(m.create_model).parameters for m in (backbones, timm))
    assert all(p.default == theirs[name].default for name, p in ours.items())


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"filter": ["van_*", "test_*"], "exclude_filters": "*b0"},
        {"module": "van"},
        {"module": ["davit", "litv2"], "filter": "*tiny*"},
        {"pretrained": True},
        {"filter": "illama_base", "include_tags": True},
        {"name_matches_cfg": True, "exclude_filters": ["*_b*"]},
    ],
    ids=str,
)
def test_lists_as_timm_does(query: dict[str, Any]) -> None:
    found = backbones.list_models(**query)
    assert found and found == [name for name in timm.list_models(**query) if name.split(".")[0] in ALL]


# Importing -----------------------------------------------------------------------------------------------------------


def python(code: str, *flags: str) -> str:
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_name_of_timm_is_taken() -> None:
    count = "import timm; before = set(timm.list_models()); import backbones"
    python(f"{count}; assert not before & set(backbones.list_models())", "-W", "error:Overwriting")


def test_importing_brings_no_openmmlab() -> None:
    loaded = python("import backbones, sys; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "backbones" in loaded
    assert not {"mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"} & set(loaded)
