"""Images in a pipeline, read as everywhere else (see :mod:`backbones.images`)."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.registry import TRANSFORMS

from backbones.images import read_image

__all__ = ["LoadImage", "dicts", "orients", "use_load_image"]


@TRANSFORMS.register_module()
class LoadImage:
    """Read ``img_path`` into ``img``: (H, W, 3) in BGR and uint8, as OpenMMLab's transforms expect it.

    It takes the place of LoadImageFromFile, which reads transparent, 16-bit, float and CMYK images differently from
    Pillow, or not at all.

    Args:
        color_type: ``color``; ``grayscale`` gives (H, W); with ``_ignore_orientation`` after either, pixels stay as
            they are stored, for annotations that were made so (TIFF is always oriented).
        to_float32: give the same values as floats.
        ignore_empty: return None for a file that cannot be read, so that the dataset takes another.
        backend_args: MMEngine's, for files that are not on a disk.

    Raises:
        ValueError: If it cannot be read; the message names the file.
    """

    def __init__(
        self,
        color_type: str = "color",
        to_float32: bool = False,
        ignore_empty: bool = False,
        backend_args: dict | None = None,
    ) -> None:
        color, _, rest = color_type.partition("_")
        if color not in ("color", "grayscale") or rest not in ("", "ignore_orientation"):
            raise ValueError(f"color_type {color_type!r}: color or grayscale, with _ignore_orientation or without")
        self.grey, self.orient = color == "grayscale", not rest
        self.to_float32, self.ignore_empty, self.backend_args = to_float32, ignore_empty, backend_args

    def __call__(self, results: dict) -> dict | None:
        """Adds ``img``, ``img_shape`` and ``ori_shape``."""
        path = results["img_path"]
        try:
            image = read_image(io.BytesIO(get(path, backend_args=self.backend_args)), self.orient)
        except (OSError, SyntaxError, ValueError) as error:
            if self.ignore_empty:
                return None
            raise ValueError(f"cannot read {path}: {error}") from error
        pixels = np.array(image.convert("L")) if self.grey else np.array(image)[..., ::-1].copy()
        results["img"] = pixels.astype(np.float32) if self.to_float32 else pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results


def dicts(value: Any) -> Iterator[dict]:
    """Every dictionary inside a config."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from dicts(part)


def use_load_image(cfg: Config) -> None:
    """Let every pipeline of a config read images with :class:`LoadImage`.

    Steps that ask for what it cannot give stay: raw values (``color_type="unchanged"``, TIFF of many channels)
    or another client.
    """
    for step in dicts(cfg._cfg_dict):
        if str(step.get("type")).rpartition(".")[2] != "LoadImageFromFile":
            continue
        raw = step.get("color_type") == "unchanged" or step.get("imdecode_backend") == "tifffile"
        if raw or step.get("file_client_args"):
            continue
        step.pop("imdecode_backend", None)
        step["type"] = "LoadImage"


def orients(dataset: Any) -> bool:
    """Whether a dataset's pipeline rotates images as their orientation tags say."""
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", [])
    return all(step.orient for step in steps if isinstance(step, LoadImage))
