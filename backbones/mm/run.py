"""From a config to a runner, with everything checked that can be wrong before the first iteration."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from backbones.mm.backbone import ZooBackbone
from backbones.weights import convert_state_dict, read_checkpoint

__all__ = ["build_runner", "check_config", "latest_checkpoint", "load_config", "load_weights"]

IMAGENET_HINT = (
    "ImageNet-1K is free for research after registration at image-net.org; unpack it to "
    "{root}/train/<class>/*.JPEG and {root}/val/<class>/*.JPEG"
)


def load_config(path: str | os.PathLike, options: dict[str, Any] | None = None) -> Config:
    """Read an OpenMMLab config, apply ``options`` (dotted keys) and import what it asks for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not parse.
    """
    from mmengine.config import utils

    utils.MODULE2PACKAGE["mmseg"] = "mmseg"  # MMEngine knows only the original distribution's name for it
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no config at {str(path)!r}")
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, KeyError, NameError) as error:
        raise ValueError(f"{path} is no valid config: {error}") from error
    if options:
        cfg.merge_from_dict(options)
    return cfg


def check_config(cfg: Config, training: bool = True) -> None:
    """Find mistakes that would otherwise surface late or obscurely; builds the backbone without memory.

    Raises:
        ValueError: unknown model or option, a neck or head for other widths, class counts that contradict each other, a
            truncated checkpoint.
        FileNotFoundError: a data folder or a checkpoint is missing.
    """
    model = cfg.model
    if model.get("backbone", {}).get("type") == "ZooBackbone":
        _check_model(model, cfg.get("data_preprocessor"))
    for name in ("train_dataloader", "val_dataloader") if training else ("test_dataloader",):
        if cfg.get(name):
            _check_folders(cfg[name].dataset, name)
    if cfg.get("load_from"):
        check_file(cfg.load_from)
    checkpoint = (model.get("backbone", {}).get("init_cfg") or {}).get("checkpoint")
    if training and checkpoint:
        check_file(checkpoint)


def _check_model(model: Config, data_preprocessor: Config | None = None) -> None:
    options = {k: v for k, v in model.backbone.items() if k not in ("type", "pretrained", "init_cfg")}
    if "model" not in options:
        raise ValueError("the backbone lacks a model: give its name, backbone=dict(model='van_b0')")
    with torch.device("meta"):
        try:
            backbone = ZooBackbone(**options)
        except TypeError as error:  # an option that does not exist
            raise ValueError(str(error)) from error
    if backbone.out_indices is None:
        classes = backbone.model.num_classes
        expected = (model.get("data_preprocessor") or data_preprocessor or {}).get("num_classes", classes)
        if classes != expected:
            raise ValueError(
                f"the model has {classes} classes, the data {expected}: set model.backbone.num_classes={expected}"
            )
        return
    neck = model.get("neck")
    reader = "neck[0]" if isinstance(neck, (list, tuple)) else "neck" if neck else "decode_head"
    part = neck[0] if isinstance(neck, (list, tuple)) else neck or model.get("decode_head") or {}
    widths = part.get("in_channels")
    if isinstance(widths, (list, tuple)) and list(widths) != backbone.out_channels:
        raise ValueError(
            f"model.{reader}.in_channels is {list(widths)}, but {backbone.model_name} with "
            f"out_indices={backbone.out_indices} gives {backbone.out_channels}: "
            f"write {reader.split('[')[0]}=dict(in_channels={backbone.out_channels})"
        )


def _check_folders(dataset: Config, loader: str) -> None:
    for inner in ("dataset", "datasets"):
        if inner in dataset:
            nested = dataset[inner]
            for part in nested if isinstance(nested, (list, tuple)) else [nested]:
                _check_folders(part, loader)
            return
    if dataset.type in ("Digits", "DigitScenes") or not dataset.get("data_root"):
        return
    imagenet = dataset.type == "ImageNet"
    folder = Path(dataset.data_root, dataset.get("split", "") if imagenet else "")
    if not folder.is_dir():
        hint = IMAGENET_HINT.format(root=dataset.data_root) if imagenet else "put the data there"
        raise FileNotFoundError(
            f"no data folder {str(folder)!r}. {hint}, or name another with --cfg-options {loader}.dataset.data_root=DIR"
        )


def check_file(path: str) -> None:
    """Cheap check of a checkpoint file: there, and not cut off. URLs are not looked at.

    Raises:
        FileNotFoundError, ValueError: it is not, or it is.
    """
    if "://" in path:
        return
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path!r}")
    with open(path, "rb") as file:
        start = file.read(2)
    # today's torch files are zip archives, whose directory stands at the end
    if not start or (start == b"PK" and not zipfile.is_zipfile(path)):
        raise ValueError(f"{path} ({os.path.getsize(path)} bytes) is truncated: fetch or write it again")


def latest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """The checkpoint of the furthest iteration or epoch in ``work_dir``, None if there is none."""
    found = [
        (int(m[1]), str(p))
        for p in Path(work_dir).glob("*.pth")
        if (m := re.fullmatch(r"(?:epoch|iter)_(\d+)", p.stem))
    ]
    return max(found)[1] if found else None


def build_runner(cfg: Config) -> Runner:
    """MMEngine's runner; distributed without a GPU, it talks through gloo."""
    if cfg.get("launcher", "none") != "none" and not torch.cuda.is_available():
        # MMEngine would call torch.cuda.set_device and give the process's rank as a device
        torch.distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    return Runner.from_cfg(cfg)


def load_weights(model: nn.Module, path: str) -> dict[str, Any]:
    """Load a checkpoint completely or not at all; returns what stands beside the weights (``meta``).

    Args:
        model: an OpenMMLab model.
        path: file or URL, written by training such a model; for a whole classifier also any layout of its family.

    Raises:
        ValueError: entries are missing or have other shapes (another number of classes, another variant).
    """
    checkpoint = read_checkpoint(path)
    weights, own = checkpoint.get("state_dict", checkpoint), model.state_dict()
    if not own.keys() <= weights.keys() and getattr(getattr(model, "backbone", None), "out_indices", ()) is None:
        converted = convert_state_dict(checkpoint, model.backbone.model)
        weights = {f"backbone.model.{key}": value for key, value in converted.items()}
    problems = [f"{key} is missing" for key in own if key not in weights]
    problems += [
        f"{key} has shape {tuple(weights[key].shape)}, the model's {tuple(value.shape)}"
        for key, value in own.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"{path} does not fit the config (another num_classes or variant?): "
            + "; ".join(problems[:6])
            + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        )
    model.load_state_dict({key: weights[key] for key in own})
    return checkpoint.get("meta") or {}
