"""How a config prepares images for its test, in the terms of exported files."""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from backbones.deploy import DensePreprocessing, Preprocessing

__all__ = ["preprocessing_of"]


def preprocessing_of(cfg: Config, name: str) -> Preprocessing | DensePreprocessing:
    """What the test pipeline and the data preprocessor of a config amount to.

    Args:
        cfg: Of a classifier, segmentation model or detector.
        name: Of the config, for messages.

    Raises:
        ValueError: If a file cannot state it: it does more than to resize, or a classifier's to crop.
    """
    settings = cfg.model.get("data_preprocessor") or cfg.data_preprocessor
    mean, std = (tuple(value / 255 for value in settings[key]) for key in ("mean", "std"))
    steps = cfg.test_dataloader.dataset.pipeline
    if cfg.default_scope != "mmpretrain":
        return DensePreprocessing(mean=mean, std=std, **_of_dense(steps, settings, name))
    size, options = _of_classifier(steps, name)
    return Preprocessing(input_size=(3, *size), mean=mean, std=std, **options)


def _of_classifier(steps: Sequence[Any], config: str) -> tuple[tuple[int, int], dict[str, Any]]:
    """Height and width, and the other fields of ``Preprocessing``."""
    found = {step["type"].rpartition(".")[2]: step for step in steps}
    ignored = ("LoadImage", "LoadImageFromFile", "PackInputs", "Resize", "ResizeEdge", "CenterCrop")
    resize = found.get("Resize") or found.get("ResizeEdge")
    if set(found) - set(ignored) or not resize or ("ResizeEdge" in found) != ("CenterCrop" in found):
        raise ValueError(
            f"the test pipeline of {config} is neither Resize nor ResizeEdge and CenterCrop: {list(found)}"
        )
    options = {"interpolation": resize.get("interpolation", "bilinear")}
    if "CenterCrop" not in found:
        scale = resize["scale"]
        width, height = (scale, scale) if isinstance(scale, int) else scale
        return (height, width), {**options, "crop_mode": "squash"}
    crop = found["CenterCrop"]["crop_size"]
    width, height = (crop, crop) if isinstance(crop, int) else crop
    # timm divides and rounds down
    return (height, width), {**options, "crop_pct": min(height, width) / (resize["scale"] + 0.5)}


def _of_dense(steps: Sequence[Any], settings: Any, config: str) -> dict[str, Any]:
    """Fields of ``DensePreprocessing`` but for the mean and the deviation."""
    found = {step["type"].rpartition(".")[2]: step for step in steps}
    known = ("LoadImage", "LoadImageFromFile", "LoadAnnotations", "Resize", "PackDetInputs", "PackSegInputs")
    if set(found) - set(known) or "Resize" not in found or not settings.get("bgr_to_rgb"):
        raise ValueError(f"the test pipeline of {config} is not Resize of RGB images alone: {list(found)}")
    resize = found["Resize"]
    width, height = resize["scale"]
    ratio = resize.get("keep_ratio", False)
    padded = settings.get("pad_size_divisor") or (settings.get("test_cfg") or {}).get("size_divisor") or 1
    return {
        "input_size": (3, *(sorted((width, height)) if ratio else (height, width))),
        "keep_ratio": ratio,
        "interpolation": resize.get("interpolation", "bilinear"),
        "size_divisor": padded,
    }
