"""Names of classes, compared between config, data and checkpoint, and matched by name in every loader of a run.

OpenMMLab numbers classes by what is there: folders by those present, categories as a file lists them. Where that
differs from the names that a run has, what it should read instead is written into its work folder, an annotation file
for COCO and a list of images for folders, and the config's dataset and evaluator are pointed there.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from backbones.files import whole_file
from backbones.images import is_hidden
from backbones.mm.training.annotations import match_coco
from backbones.mm.training.run import SELF_MADE, check_class_counts, class_names, leaf_configs

__all__ = ["Names", "check_names", "match_data", "trained_names"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")  # MMPretrain's
MOST_CLASSES = 255  # of label maps: MMSegmentation reads them in eight bits, of which 255 is ignored


class Names(NamedTuple):
    """Classes in the order of their numbers, and where they are from."""

    classes: tuple[str, ...]
    source: str
    folders: tuple[str, ...] = ()  # of an image folder whose names are not the classes


def trained_names(checkpoint: dict[str, Any], source: str) -> Names | None:
    """The classes that a checkpoint was trained on, None if it does not say."""
    meta = checkpoint.get("meta") or {}
    classes = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    return Names(tuple(classes), source) if classes and not isinstance(classes, str) else None


def check_names(classes: Sequence[str], source: str, names: Names) -> None:
    """Compare a data set's classes with those of the run.

    Raises:
        ValueError: If they are others, or in another order.
    """
    if tuple(classes) != names.classes:
        raise ValueError(
            f"{source} has the classes {_listing(classes, names.classes)}, {names.source} "
            f"{_listing(names.classes, classes)}: the same names in the same order are needed"
        )


def _listing(names: Sequence[str], others: Sequence[str], most: int = 20) -> str:
    """Names as in a message; of many, those from the first that differs."""
    start = next((i for i, pair in enumerate(zip(names, others)) if pair[0] != pair[1]), 0) if len(names) > most else 0
    shown = ", ".join(names[start : start + most])
    return f"({'..., ' if start else ''}{shown}{', ...' if start + most < len(names) else ''})"


def match_data(cfg: Config, training: bool = True, names: Names | None = None) -> list[str]:
    """Let the loaders of a run agree on classes, and read annotations that need mending from the work folder.

    Args:
        cfg: config of the run, with its ``work_dir``; its datasets and evaluators are changed.
        training: look at the loaders for training and validation, otherwise for testing.
        names: classes of the checkpoint that is tested or resumed; without, those of the first data set count.

    Returns:
        What was matched, and what is odd about the annotations, a sentence each.

    Raises:
        ValueError: If names differ, a folder or a category belongs to no class, the model has another number of
            classes, annotations are of no use, or a label map cannot hold the classes.
    """
    warnings: list[str] = []
    for loader in ("train", "val") if training else ("test",):
        if not cfg.get(f"{loader}_dataloader"):
            continue
        replaced: dict[str, str] = {}  # annotation files
        for path, dataset in leaf_configs(cfg[f"{loader}_dataloader"].dataset, f"{loader}_dataloader.dataset"):
            if dataset.type.split(".")[-1] in SELF_MADE:
                continue
            found, words = _match(cfg, path, dataset, names, replaced)
            warnings += words
            names = names or found
        _match_evaluators(cfg, loader, replaced)
    return warnings


def _match(cfg: Config, path: str, dataset: Config, names: Names | None, replaced: dict) -> tuple[Names | None, list]:
    scope = cfg.get("default_scope") or "mmengine"
    kind = DATASETS.get(dataset.type if "." in dataset.type else f"{scope}.{dataset.type}")
    bases: dict[str, Any] = {base.__name__: base for base in inspect.getmro(kind)} if inspect.isclass(kind) else {}
    classes = class_names(cfg, path, dataset)
    split = dataset.get(
        "split", ""
    )  # of ImageNet: MMPretrain takes its list where there is one, its test has no labels
    listed = dataset.get("ann_file") or (split and Path(dataset.get("data_root", ""), "meta", f"{split}.txt").exists())
    if "CustomDataset" in bases and dataset.get("with_label", split != "test") and not listed:
        found, warnings = _match_folders(cfg, path, dataset, classes, names)
    elif not classes:
        return None, []
    elif "CocoDataset" in bases and str(dataset.get("ann_file")).endswith(".json"):
        if bases[kind.__name__].load_data_list is not bases["CocoDataset"].load_data_list:
            return None, []  # a format of its own
        found, warnings = _match_coco(cfg, path, dataset, classes, names, replaced)
    else:
        if names and set(classes) == set(names.classes) and getattr(kind, "METAINFO", {}).get("classes"):
            classes = names.classes  # the numbers on the disk have names, and are given new ones by them
            dataset.metainfo = dict(dataset.get("metainfo") or {}, classes=classes)
        found, warnings = Names(tuple(classes), path), []
        most = MOST_CLASSES - bool(dataset.get("reduce_zero_label"))
        if hasattr(kind, "get_label_map") and len(classes) > most:
            raise ValueError(
                f"{path} has {len(classes)} classes, but MMSegmentation reads label maps in eight bits, for {most}: "
                "unite classes or leave some out"
            )
        if hasattr(kind, "get_label_map"):
            _check_ignored(cfg, path, dataset)
    if names:
        check_names(found.classes, path, names)
    try:
        check_class_counts(cfg.model, len(found.classes), f"{path} ({dataset.type})")
    except ValueError as error:
        if classes or names:
            raise
        raise ValueError(f"{error}, or name those without a folder too, in {path}.metainfo.classes") from None
    return found, warnings


def _check_ignored(cfg: Config, path: str, dataset: Config) -> None:
    """One number means nothing in label maps, heads, padding and evaluation; the loader itself knows none."""
    loader = path.split("_")[0]
    parts = {f"model.{key}": cfg.model.get(key) for key in ("decode_head", "auxiliary_head")}
    parts[f"{loader}_evaluator"] = _evaluators(cfg, loader)
    ignored = dataset.get("ignore_index", 255)
    for name, part in parts.items():
        for options in part if isinstance(part, (list, tuple)) else [part] if part else []:
            if (other := options.get("ignore_index", 255)) != ignored:
                raise ValueError(
                    f"{path}.ignore_index is {ignored}, but {name}.ignore_index {other}: set both to the same number"
                )
    preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if (padding := preprocessor.get("seg_pad_val", 255)) != ignored:
        raise ValueError(
            f"{path}.ignore_index is {ignored}, but label maps are padded with {padding}: set "
            f"data_preprocessor.seg_pad_val={ignored}"
        )


def _match_coco(
    cfg: Config, path: str, dataset: Config, classes: Sequence[str], names: Names | None, replaced: dict[str, str]
) -> tuple[Names, list[str]]:
    if names and set(classes) == set(names.classes):
        classes = names.classes
        dataset.metainfo = dict(dataset.get("metainfo") or {}, classes=classes)
    root = dataset.get("data_root") or ""
    file = os.path.join(root, dataset.ann_file)
    images = os.path.join(root, (dataset.get("data_prefix") or {}).get("img", ""))
    masks = any(step.get("with_mask") for step in dataset.get("pipeline", []))
    masks |= any("segm" in evaluator.get("metric", ()) for evaluator in _evaluators(cfg, path.split("_")[0]))
    content, warnings = match_coco(file, classes, images, masks)
    replaced[os.path.realpath(file)] = os.path.abspath(file)
    if content:
        dataset.ann_file = _write(cfg, json.dumps(content), Path(file).stem, ".json")
        replaced[os.path.realpath(file)] = dataset.ann_file
        warnings.append(f"{file}: read as mended in {dataset.ann_file}")
    return Names(tuple(classes), path), warnings


def _evaluators(cfg: Config, loader: str) -> Sequence[Config]:
    evaluators = cfg.get(f"{loader}_evaluator") or []
    return evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]


def _match_evaluators(cfg: Config, loader: str, replaced: dict[str, str]) -> None:
    """Evaluators read the annotations that their loader reads."""
    key = f"{loader}_evaluator"
    for evaluator in _evaluators(cfg, loader):
        file = evaluator.get("ann_file")
        if not file or not replaced:
            continue
        if (real := os.path.realpath(file)) in replaced:
            if replaced[real] != os.path.abspath(file):
                evaluator.ann_file = replaced[real]
        elif real not in map(os.path.realpath, replaced.values()):
            given = next(iter(replaced.values()))
            raise ValueError(
                f"{key}.ann_file is {file}, but {loader}_dataloader reads {given}: set {key}.ann_file={given}"
            )


def _match_folders(
    cfg: Config, path: str, dataset: Config, classes: Sequence[str] | None, names: Names | None
) -> tuple[Names, list[str]]:
    prefix = dataset.get("data_prefix") or dataset.get("split") or ""
    root = Path(dataset.get("data_root") or "", prefix.get("img_path", "") if isinstance(prefix, dict) else prefix)
    present = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    folders = tuple(name for name in present if not is_hidden(name))
    given = classes
    if given and names and set(given) == set(names.classes):
        classes = names.classes
    classes = tuple(classes or (names.classes if names else folders))
    expected = (names.folders if names else ()) or _usual_folders(classes)
    warnings = []
    if set(folders) <= set(classes):
        numbered: tuple[str, ...] = classes
        expected = ()
    elif expected and set(folders) <= set(expected):
        numbered = expected
    elif len(folders) == len(classes) and not expected and not set(folders) & set(classes):
        numbered = expected = folders
        pairs = ", ".join(f"{folder} is {name}" for folder, name in zip(folders, classes[:5]))
        warnings.append(f"{path}: folders of {root} have other names than the classes, and are taken in order: {pairs}")
    else:
        unknown = [name for name in folders if name not in (expected or classes)]
        raise ValueError(
            f"{path}: {root} has folders that are no class ({', '.join(unknown[:20])}), "
            f"{names.source if names else 'its config'} has the classes {_listing(expected or classes, folders)}: "
            "rename or remove the folders"
        )
    if missing := [name for name in numbered if name not in folders]:
        warnings.append(f"{path}: {root} has no images of {len(missing)} of {len(numbered)} classes ({_some(missing)})")
    if list(numbered) != present:  # else MMPretrain finds the same numbers
        lines = [f"{file} {i}" for i, folder in enumerate(numbered) for file in _images(root, folder, dataset)]
        if not lines:
            raise ValueError(f"{path}: {root} has no images in folders of its classes ({_some(numbered)})")
        dataset.ann_file = _write(cfg, "\n".join(lines) + "\n", path.split(".")[0], ".txt")
    if classes != tuple(given or ()):
        dataset.metainfo = dict(dataset.get("metainfo") or {}, classes=classes)
    return Names(classes, str(root), expected), warnings


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _usual_folders(classes: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's folders have other names than its classes."""
    if len(classes) != 1000:
        return ()
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names()) if tuple(classes) == tuple(IMAGENET_CATEGORIES) else ()


def _images(root: Path, folder: str, dataset: Config) -> Iterator[str]:
    """Images of a class, with their folder, as MMPretrain lists them, without hidden ones."""
    extensions = tuple(e.lower() for e in dataset.get("extensions", EXTENSIONS))
    for place, below, files in os.walk(root / folder):
        below[:] = sorted(name for name in below if not is_hidden(name))
        for file in sorted(files):
            if file.lower().endswith(extensions) and not is_hidden(file):
                yield os.path.relpath(os.path.join(place, file), root)


def _write(cfg: Config, text: str, stem: str, suffix: str) -> str:
    """A file of the work folder with this content, named after it, so that several processes write the same."""
    folder = Path(cfg.get("work_dir") or "work_dirs", "annotations").absolute()
    path = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}{suffix}"
    if not path.exists():
        with whole_file(path) as partial:
            partial.write_text(text)
    return str(path)
