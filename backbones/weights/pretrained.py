"""Published weights by tag: fetched, converted to the model's own layout, and kept as safetensors.

Where they are stands in the families' ``default_cfgs``: ``hf_hub_id`` (with ``hf_hub_filename``) and ``url``, tried in
this order, both as :class:`backbones.weights.fetch.Address` reads them; or ``file``, one that the package ships.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg
from timm.models._builder import resolve_pretrained_cfg
from torch import Tensor, nn

from backbones.files import whole_file
from backbones.weights.convert import ENTRIES, Conversion, convert_checkpoint, weights_of
from backbones.weights.fetch import DownloadError, discard, fetch, home, is_remote, mirrored, sha256_of
from backbones.weights.read import read_checkpoint

_logger = logging.getLogger(__name__)


def addresses(cfg: PretrainedCfg) -> list[str]:
    """Where the weights of a config are, best first."""
    found = []
    if cfg.hf_hub_id:
        file = f"#file={cfg.hf_hub_filename}" if cfg.hf_hub_filename else ""
        found.append(f"hf-hub:{cfg.hf_hub_id}{file}")
    if cfg.url:
        found.append(cfg.url if isinstance(cfg.url, str) else f"{cfg.url[0]}#file={cfg.url[1]}")
    return found


def cache_file(architecture: str, cfg: PretrainedCfg, cache_dir: str | os.PathLike | None = None) -> Path:
    """Where the converted weights of a tag are kept."""
    name = f"{architecture}.{cfg.tag}" if cfg.tag else architecture
    return Path(cache_dir or home()) / f"{name}.safetensors"


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a safetensors file says of itself; empty if it is none or says nothing."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def metadata_of(
    conversion: Conversion, architecture: str, cfg: PretrainedCfg, source: str, sha256: str
) -> dict[str, str]:
    """What a converted file says of itself: origin, model, licence, and the published names for the way back."""
    names = {key: [*parts, conversion.shapes[key]] for key, parts in conversion.names.items()}
    return {
        "format": "pt",
        "model": architecture,
        "tag": cfg.tag or "",
        "license": cfg.license or "unstated",
        "source": source,
        "sha256": sha256,
        "layout": conversion.layout,
        "names": json.dumps(names, separators=(",", ":")),
    }


def save_weights(weights: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears only when it is whole."""
    from safetensors.torch import save_file

    with whole_file(path) as partial:
        tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, dict(metadata))
        partial.chmod(mode)  # safetensors lets nobody else read its files, but caches and mirrors are shared


def _fetch_first(tag: str, known: list[str], cache_dir: str | os.PathLike | None, target: Path) -> tuple[Path, str]:
    """The file of the first address that has one, and that address."""
    converted = mirrored(f"{tag}.safetensors")
    errors, by_hand = [], ""
    for address in [converted, *known] if converted else known:
        try:
            return fetch(address, cache_dir), address
        except (DownloadError, FileNotFoundError) as error:
            errors.append(str(error))
            by_hand = by_hand or getattr(error, "by_hand", "")
    message = f"the weights {tag} cannot be fetched: {'; '.join(errors)}"
    if by_hand:
        message += f". Then: backbones convert {by_hand} --model {tag} --out {target}"
    raise DownloadError(message)


def pretrained_file(architecture: str, cfg: PretrainedCfg, cache_dir: str | os.PathLike | None = None) -> Path:
    """The weights of a tag as safetensors in the model's own layout; fetched and converted if the cache lacks them.

    Args:
        architecture: Registered name of the model, without tag.
        cfg: Its config for the tag.
        cache_dir: Instead of :func:`backbones.weights.fetch.home`.

    Raises:
        DownloadError: If the file cannot be had.
        ValueError: If it does not fit the model, or is no checkpoint.
    """
    from filelock import FileLock

    known = addresses(cfg)
    target = cache_file(architecture, cfg, cache_dir)

    def cached() -> bool:
        return target.is_file() and read_metadata(target).get("address") in known

    if cached():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if cached():  # by another process, meanwhile
            return target
        file, source = _fetch_first(target.stem, known, cache_dir, target)
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained_cfg=cfg.to_dict())
        conversion = convert_checkpoint(read_checkpoint(file), model)
        if conversion.fit.unfit:
            conversion.fit.require(source, target.stem)
        if unexpected := conversion.fit.unexpected:
            _logger.warning("%s: left out what %s lacks: %s", source, target.stem, ", ".join(unexpected))
        weights = {key: conversion.weights[key] for key in model.state_dict()}
        metadata = read_metadata(file)
        if "names" not in metadata:  # else it comes converted, from a mirror
            metadata = metadata_of(conversion, architecture, cfg, source, sha256_of(file))
        save_weights(weights, target, metadata | {"address": known[0]})
        discard(file, cache_dir)
    return target


def tag_config(text: str) -> PretrainedCfg | None:
    """Config of a model or of a pretrained tag (``van_b0.in1k``), if it has weights."""
    try:
        cfg = get_pretrained_cfg(text) if timm.is_model(text.split(".")[0]) else None
    except RuntimeError:  # the model has no such tag
        return None
    return cfg if cfg is not None and (cfg.file or addresses(cfg)) else None


def find_weights(source: str | os.PathLike) -> Path:
    """The file that ``source`` means.

    Args:
        source: A path; an address (``https://``, ``hf-hub:``); a model or a pretrained tag such as ``van_b0.in1k``.

    Raises:
        FileNotFoundError: If it is none of these.
        DownloadError: If the file cannot be had.
    """
    text = os.fspath(source)
    if not os.path.isfile(text):
        if is_remote(text):
            return fetch(text)
        cfg = tag_config(text)
        if cfg is not None:
            return Path(cfg.file) if cfg.file else pretrained_file(text.split(".")[0], cfg)
        raise FileNotFoundError(f"no checkpoint at {text!r}: no such file, and no pretrained tag")
    return Path(text)


def load_checkpoint(source: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in the checkpoint that ``source`` means, fetched first where it is remote.

    Args:
        source: As :func:`find_weights` takes it.

    Raises:
        FileNotFoundError: If it is neither path, nor address, nor tag.
        DownloadError: If the file cannot be had.
        ValueError: If the file cannot be read, as of :func:`backbones.weights.read_checkpoint`.
    """
    return read_checkpoint(find_weights(source))


def pretrained_overlay(
    model_cls: type[nn.Module],
    name: str,
    pretrained_cfg: Any = None,
    overlay: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """What to lay over the ``pretrained_cfg`` so that timm loads the weights from here.

    timm keeps what it does well: ``hf-hub:`` and ``local-dir:`` models, which are in the model's own layout, a
    ``state_dict`` handed in, and the adaptation to other ``num_classes`` and ``in_chans``.

    Args:
        model_cls: Class of the model.
        name: Its registered name.
        pretrained_cfg, overlay, cache_dir: As ``timm.create_model`` takes them.
    """
    overlay = dict(overlay or {})
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, overlay)
    if cfg.source in ("hf-hub", "local-dir") or cfg.state_dict:
        return overlay
    elsewhere = overlay.keys() & {"url", "hf_hub_id"} and "file" not in overlay  # not what the package ships
    if cfg.file and not elsewhere:
        entries = getattr(model_cls, "checkpoint_entries", ENTRIES)
        return overlay | {"state_dict": weights_of(read_checkpoint(cfg.file), entries)}
    if not addresses(cfg):
        return overlay  # timm says that there are none
    return overlay | {"file": str(pretrained_file(name, cfg, cache_dir))}
