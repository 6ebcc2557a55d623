"""Converting checkpoints: wrappers, heads of other libraries, and errors that name every key."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones.weights import convert_checkpoint, convert_state_dict
from tests.families.test_van import to_official

TINY = backbones.list_models("test_*", task="classification")


def tiny(name: str = "test_van", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model(name, num_classes=7, **kwargs)


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def as_mm_classifier(weights: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The classifier's part is not in the backbone; a key of something else comes along."""
    return {
        prefix + (key if key.startswith("head.fc.") else f"backbone.{key}"): value for key, value in weights.items()
    } | {f"{prefix}data_preprocessor.mean": torch.zeros(3)}


def as_lightning(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The module has a metric and a loss with weights beside the model."""
    beside = {"train_acc.confmat": torch.zeros(7, 7), "loss.weight": torch.ones(7), "ema_decay": torch.tensor(0.9)}
    return {"state_dict": prefixed(weights, "model.") | beside, "pytorch-lightning_version": "2.5", "callbacks": {}}


def averaged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``torch.optim.swa_utils.AveragedModel``."""
    return {"n_averaged": torch.tensor(5), **prefixed(weights, "module.")}


WRAPPERS = {
    "plain": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "meta": {"epoch": 3}},
    "model": lambda w: {"model": w, "optimizer": {"lr": 0.1}, "epoch": 300},
    "nested": lambda w: {"state_dict": {"model": w}},
    "DistributedDataParallel": lambda w: {"state_dict": prefixed(w, "module.")},
    "torch.compile": lambda w: prefixed(w, "_orig_mod."),
    "mm classifier": lambda w: {"state_dict": as_mm_classifier(w)},
    "mm classifier, distributed": lambda w: {"state_dict": as_mm_classifier(w, "module.")},
    "ZooBackbone classifier": lambda w: {"state_dict": prefixed(w, "backbone.model.")},
    "compiled blocks": lambda w: {key.replace(".blocks.0.", ".blocks.0._orig_mod."): value for key, value in w.items()},
    "FSDP with checkpointing": lambda w: {
        "_fsdp_wrapped_module." + key.replace("attn.", "_checkpoint_wrapped_module.attn."): value
        for key, value in w.items()
    },
    "AveragedModel": averaged,
    "MMEngine's averages": lambda w: {
        "ema_state_dict": {"steps": torch.tensor(9), **prefixed(w, "module.backbone.model.")}
    },
    "Lightning": as_lightning,
}
# Wrappers of a module, from the inside to the outside.
LAYERS = {
    "module": lambda w: prefixed(w, "module."),
    "_orig_mod": lambda w: prefixed(w, "_orig_mod."),
    "model": lambda w: prefixed(w, "model."),
    "backbone": lambda w: prefixed(w, "backbone."),
    "averaged": averaged,
}
FILES = {
    "state dict": lambda w: w,
    "file": lambda w: {"state_dict": w, "epoch": 3},
    "nested file": lambda w: {"model": {"module": w, "scaler": {}}},
    "averages": lambda w: {"ema_state_dict": w},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", TINY)
def test_wrappers_are_taken_off(name: str, wrapper: str) -> None:
    model = tiny(name)
    own = model.state_dict()
    converted = convert_state_dict(WRAPPERS[wrapper](dict(own)), model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


@pytest.mark.parametrize(
    "layers", [*itertools.product(LAYERS, repeat=2), *itertools.permutations(LAYERS, 3)], ids="-".join
)
def test_wrappers_in_any_order_and_depth(layers: tuple[str, ...]) -> None:
    model = tiny(device="meta")
    own = model.state_dict()
    official = {to_official(key): value for key, value in own.items()}
    for weights in (own, official):
        for layer in layers:
            weights = LAYERS[layer](weights)
        for file in FILES.values():
            conversion = convert_checkpoint(file(weights), model)
            assert not conversion.fit.problems()
            assert {name.rpartition(".")[2] for name in conversion.dropped} <= {"n_averaged"}


def test_what_stands_beside_a_wrapped_model_is_named() -> None:
    model = tiny(device="meta")
    conversion = convert_checkpoint(as_lightning(model.state_dict()), model)
    assert set(conversion.dropped) == {"train_acc.confmat", "loss.weight", "ema_decay"}
    assert not conversion.fit.unexpected


@pytest.mark.parametrize("wrapper", [w for w in WRAPPERS if not w.startswith("mm classifier")])
def test_wrappers_are_taken_off_the_official_layout(wrapper: str) -> None:
    model = tiny()
    own = model.state_dict()
    converted = convert_state_dict(WRAPPERS[wrapper]({to_official(key): value for key, value in own.items()}), model)
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)


@pytest.mark.parametrize("name", TINY)
def test_errors_name_every_key(name: str) -> None:
    model = tiny(name)
    weights = dict(model.state_dict())
    gone = [key for key in weights if key.endswith("weight")][1:3]
    for key in gone:
        del weights[key]
    weights["a.stranger"] = torch.zeros(2)
    weights["head.fc.weight"] = torch.zeros(11, weights["head.fc.weight"].shape[1])
    with pytest.raises(ValueError) as error:
        convert_state_dict(weights, model)
    message = str(error.value)
    assert f"missing from the checkpoint: {', '.join(gone)}" in message
    assert "unknown to the model: a.stranger" in message
    assert "head.fc.weight has shape [11, " in message and "the model's [7, " in message
    assert type(model).__name__ in message


def test_without_strict_what_fits_comes_back() -> None:
    model = tiny()
    weights = dict(model.state_dict())
    del weights["head.fc.weight"], weights["head.fc.bias"]
    converted = convert_state_dict({**weights, "out_norms.1.weight": torch.ones(32)}, model, strict=False)
    assert converted.keys() == weights.keys() | {"out_norms.1.weight"}


def test_a_checkpoint_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit VAN: missing from the checkpoint: .*; unknown to the model: "):
        convert_state_dict(tiny("test_litv2").state_dict(), tiny())
