"""Image folders, checked before any work begins: a folder a class, split by ``train`` and ``val`` or by chance."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbones.images import find_bad_images, is_hidden, list_images

__all__ = ["Split", "open_folder", "split_at_random"]

HELD_OUT = ("val", "validation", "test")


class Split(NamedTuple):
    """Files of one side of a data set.

    Attributes:
        root: Their folder.
        files: Paths, in order.
        labels: (n,) numbers of their classes.
        classes: Names of all classes.
    """

    root: str
    files: list[str]
    labels: np.ndarray
    classes: list[str]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """Some of the files."""
        return self._replace(files=[self.files[i] for i in indices], labels=self.labels[indices])

    def digest(self) -> str:
        """SHA-256 of the files' names and contents."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{os.path.relpath(file, self.root)}\n".encode())
            digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
        return digest.hexdigest()


def _read(folder: Path, classes: list[str] | None = None) -> Split:
    """A folder of folders, one a class."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    known = classes or []
    classes = [*known, *(name for name in names if name not in known)]
    files: list[str] = []
    labels: list[int] = []
    for name in names:
        found = list_images(folder / name)
        files += found
        labels += [classes.index(name)] * len(found)
    if not files:
        raise ValueError(f"no folder of images in {str(folder)!r}: expected {folder}/CLASS/IMAGE")
    return Split(str(folder), files, np.array(labels), classes)


def split_at_random(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of those that stay and those that are held out: of every class its share, at least one image.

    Raises:
        ValueError: If a class has a single image.
    """
    generator = np.random.default_rng(seed)
    stay, out = [], []
    for label in np.unique(labels):
        indices = generator.permutation(np.flatnonzero(labels == label))
        if len(indices) < 2:
            raise ValueError(f"class number {label} has one image: two are needed to hold one out")
        held = max(1, round(share * len(indices)))
        out.append(indices[:held])
        stay.append(indices[held:])
    return np.sort(np.concatenate(stay)), np.sort(np.concatenate(out))


def open_folder(root: str | os.PathLike, min_classes: int = 2) -> tuple[Split, Split]:
    """Training and held-out images of ``root``, every one of them read once to see that it can be.

    ``root`` holds ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE`` (or ``test``), or ``CLASS/IMAGE`` alone, of which a
    fifth of every class is held out, always the same.

    Args:
        root: The folder.
        min_classes: Classes that there must be among the training images.

    Raises:
        ValueError: If there is no image, too few classes, a class that was not trained on (unless one class is
            enough), or an image that cannot be read; the message names it.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise ValueError(f"no folder at {str(root)!r}")
    held_out = next((folder / name for name in HELD_OUT if (folder / name).is_dir()), None)
    try:
        if (folder / "train").is_dir() and held_out is not None:
            train = _read(folder / "train")
            val = _read(held_out, train.classes)
        else:
            whole = _read(folder)
            if len(whole.classes) >= min_classes:
                stay, out = split_at_random(whole.labels)
                train, val = whole.take(stay), whole.take(out)
            else:
                train = val = whole
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    if len(train.classes) < min_classes:
        raise ValueError(f"{train.root!r} has one class, {train.classes[0]!r}: there is nothing to tell apart")
    if min_classes > 1 and len(val.classes) > len(train.classes):
        raise ValueError(f"{val.root!r} has classes that {train.root!r} lacks: {val.classes[len(train.classes) :]}")
    bad = find_bad_images([*train.files, *val.files], progress="checking images")
    if bad:
        lines = [f"  {file}: {reason}" for file, reason in list(bad.items())[:5]]
        more = [f"  and {len(bad) - 5} more"] if len(bad) > 5 else []
        raise ValueError("\n".join([f"{len(bad)} images cannot be read; repair or remove them:", *lines, *more]))
    return train._replace(classes=val.classes), val
