"""What several tools share: finding and building a model by name, types of arguments, text tables."""

from __future__ import annotations

import argparse
import difflib
import importlib
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import backbones


def check_model(spec: str) -> None:
    """Checks that `spec` names a model, without building it.

    Args:
        spec: a name registered with timm, with or without a pretrained tag (`van_b0`, `resnet50.a1_in1k`), or
            `module:callable` for code that is not registered.

    Raises:
        ValueError: the name is unknown (near names are suggested), or the module or the callable cannot be found.
    """
    if ":" in spec:
        _factory(spec)
    elif not timm.is_model(spec):
        arch = spec.split(".")[0]
        ours = difflib.get_close_matches(arch, backbones.list_models(), 4, 0.6)
        near = ours + difflib.get_close_matches(arch, timm.list_models(), 4, 0.75)
        hint = f"near names: {', '.join(dict.fromkeys(near))}" if near else "backbones.list_models() has the names"
        raise ValueError(f"unknown model {spec!r}; {hint}")


def _factory(spec: str):
    module_name, _, attribute = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"cannot find {spec!r}: {error} (expected importable.module:callable; `python -m backbones` also looks in "
            "the folder where it is run)"
        ) from error
    if not callable(factory):
        raise ValueError(f"{spec!r} is a {type(factory).__name__}, not a callable that returns a model")
    return factory


def build_model(
    spec: str,
    img_size: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> nn.Module:
    """Builds the model that `spec` names (see `check_model`), with random weights and, where it has one, its size set.

    Args:
        img_size: height and width in pixels; None keeps the model's own.
        device: where the parameters are made; "meta" makes none.
        options: handed to the model (`num_classes=10`), or to the callable.

    Raises:
        ValueError: see `check_model`; also when a callable returns something that is not a module.
    """
    check_model(spec)
    with torch.device(device):
        model = _factory(spec)(**options) if ":" in spec else timm.create_model(spec, **options)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{spec!r} returned a {type(model).__name__}, not a torch.nn.Module")
        if img_size is not None and tuple(img_size) != default_img_size(model) and hasattr(model, "set_input_size"):
            model.set_input_size(img_size=tuple(img_size))
    return model


def default_img_size(model: nn.Module) -> tuple[int, int]:
    """The height and width a model is made for, by its `pretrained_cfg`; 224 by 224 where it has none."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return tuple(config.get("input_size", (3, 224, 224))[-2:])


def int_in(low: int, high: float = math.inf) -> Callable[[str], int]:
    """argparse type of a whole number from `low`, 0 or more, to `high`."""
    limits = f"from {low} to {high}" if high < math.inf else f"at least {low}"

    def number(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number, {limits}, got {text}")
        return int(text)

    return number


positive_int = int_in(1)  # of things
seed = int_in(0, 2**32 - 1)  # NumPy takes no other


def number_in(low: float, high: float = math.inf) -> Callable[[str], float]:
    """argparse type of a finite number from `low` to `high`."""
    limits = f"from {low:g} to {high:g}" if high < math.inf else f"{low:g} or more"

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"must be a number, {limits}, got {text}")
        return value

    return number


def pattern(text: str) -> str:
    """argparse type of a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error
    return text


def device(text: str) -> str:
    """argparse type of a device that is here: `cpu`, `cuda:1`."""
    try:
        torch.zeros(1, device=text).item()
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: {str(error).splitlines()[0]}") from error
    return text


def output_file(text: str) -> Path:
    """argparse type of a file that will be written, in folders that will be made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    _check_writing(text, path.parent)
    return path


def output_folder(text: str) -> Path:
    """argparse type of a folder that files will be written to, and that will be made."""
    _check_writing(text, Path(text))
    return Path(text)


def _check_writing(text: str, folder: Path) -> None:
    """Said before work begins, not at its end."""
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written ({error.strerror}): name another") from error


def parse_img_size(text: str) -> tuple[int, int]:
    """argparse type of one image size: `224` or `256x192` (height x width)."""
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no image size; write 224 or 256x192 (height x width)")
    return numbers[0], numbers[-1]


def format_img_size(size: Sequence[int]) -> str:
    """`224` for a square, `256x192` (height x width) otherwise."""
    return str(size[0]) if size[0] == size[-1] else f"{size[0]}x{size[-1]}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left and the others to the right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])
