"""Real images without a download: scikit-learn's 1,797 scans of handwritten digits, as an image folder."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DATASETS

__all__ = ["build_digits", "complete_or_absent", "read_scans", "write_digits"]


def read_scans() -> dict[str, list[tuple[int, np.ndarray, int]]]:
    """The scans of ``train`` (1,437) and ``val`` (360): number, pixels (8, 8) in uint8, digit.

    The split is fixed and has equal shares of each digit on both sides.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    held_out = set(
        train_test_split(range(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)[1]
    )
    scans: dict[str, list] = {"train": [], "val": []}
    for number, (scan, digit) in enumerate(zip(digits.images, digits.target)):
        grey = (scan * (255 / 16)).round().astype("uint8")  # the scans have 17 levels
        scans["val" if number in held_out else "train"].append((number, grey, int(digit)))
    return scans


@contextlib.contextmanager
def complete_or_absent(root: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``root`` when the block ends, and vanishes if an error ends it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        try:
            os.rename(scratch, root)
        except OSError:
            if not root.exists():  # else another process was first, which is just as good
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_digits(root: str | os.PathLike = "data/digits") -> Path:
    """Write the scans to ``root/{train,val}/<digit>/<number>.png``, 8x8 grey as scanned, and return ``root``.

    The folder appears complete or not at all, and a folder that exists is left alone.
    """
    root = Path(root)
    if root.exists():
        return root
    from PIL import Image

    with complete_or_absent(root) as scratch:
        for split, scans in read_scans().items():
            for number, grey, digit in scans:
                folder = scratch / split / str(digit)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(grey).save(folder / f"{number:04d}.png")
    return root


@DATASETS.register_module(name="Digits")
def build_digits(split: str, pipeline: list, data_root: str = "data/digits", **kwargs):
    """MMPretrain's image folder dataset over the scans; writes them first where they are missing.

    A function, not a subclass, so that importing ``backbones.mm`` does not import MMPretrain.

    Args:
        split: ``train`` (1,437 images) or ``val`` (360).
        pipeline: MMPretrain transforms; the first one to resize decides the size the model sees.
    """
    if is_main_process():
        write_digits(data_root)
    barrier()
    folder = str(Path(data_root) / split)
    return DATASETS.build(dict(type="mmpretrain.CustomDataset", data_root=folder, pipeline=pipeline, **kwargs))
