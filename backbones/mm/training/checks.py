"""Data sets as a run has built them, compared with their files, with each other and with the model."""

from collections import Counter
from typing import NamedTuple

from backbones.images import ImageInfo, inspect_image, map_files
from backbones.mm.training.annotations import inspect_label_maps, judge_labels
from backbones.mm.training.loading import orients
from backbones.mm.training.matching import Names, check_names
from backbones.mm.training.run import check_class_counts

__all__ = ["check_data", "leaf_datasets"]


def leaf_datasets(dataset) -> list:
    """The datasets inside one of any of the OpenMMLab libraries, wrappers (repeat, concat, class balance) opened."""
    for inner in ("dataset", "datasets"):
        if hasattr(dataset, inner):
            nested = getattr(dataset, inner)
            parts = nested if isinstance(nested, (list, tuple)) else [nested]
            return [leaf for part in parts for leaf in leaf_datasets(part)]
    return [dataset]


class Placed(NamedTuple):
    """An image, and what its annotations say about where its pixels are."""

    file: str
    size: tuple[int, int] | None  # width and height, if they say
    orient: bool  # whether the pipeline rotates it as its orientation tag says
    annotated: bool  # boxes, masks or a label map have places in it


def check_data(loaders: list[list], model: dict, training: bool = True) -> list[str]:
    """Compare data sets with each other, with the model, and images with their annotations.

    Args:
        loaders: data sets of each loader, the one for training first.
        model: config of the model.
        training: judge the classes of the first loader's label maps.

    Returns:
        What is odd but does not stop a run, a sentence each.

    Raises:
        ValueError: If they contradict each other, or files cannot be used, which are listed.
    """
    names: Names | None = None
    placed: list[Placed] = []
    for dataset in (dataset for part in loaders for dataset in part):
        kind = type(dataset).__name__
        if classes := getattr(dataset, "metainfo", {}).get("classes"):
            names = names or Names(tuple(classes), f"the first data set ({kind})")
            check_names(classes, kind, names)
            check_class_counts(model, len(classes), kind)
        for info in map(dataset.get_data_info, range(len(dataset))):
            if "img_path" in info:
                size = (info["width"], info["height"]) if "width" in info and "height" in info else None
                annotated = bool(size or info.get("seg_map_path"))
                placed.append(Placed(str(info["img_path"]), size, orients(dataset), annotated))
            label = info.get("gt_label")
            if names and isinstance(label, int) and not 0 <= label < len(names.classes):
                raise ValueError(
                    f"{info['img_path']} has the label {label}, but there are {len(names.classes)} classes, 0 to "
                    f"{len(names.classes) - 1}: give it one of them"
                )
    inspected = map_files(_inspect, sorted({image.file for image in placed}), progress="checking images")
    if bad := {file: info for file, info in inspected.items() if isinstance(info, str)}:
        raise ValueError(_list_files(f"{len(bad)} of {len(inspected)} images cannot be read, remove or replace", bad))
    images = {file: info for file, info in inspected.items() if isinstance(info, ImageInfo)}
    warnings = _compare_sizes(placed, images)
    for number, part in enumerate(loaders):
        counts: dict[str, Counter[int]] = {}
        for dataset in part:
            useless, found = inspect_label_maps(dataset, images, orients(dataset))
            if useless:
                title = f"{len(useless)} label maps cannot be used, remove or replace"
                raise ValueError(_list_files(title, useless))
            counts |= found
        if counts and names and training and number == 0:
            warnings += judge_labels(counts, names.classes)
    return warnings


def _inspect(file: str) -> ImageInfo | str:
    try:
        return inspect_image(file)
    except ValueError as error:
        return str(error)


def _compare_sizes(placed: list[Placed], images: dict[str, ImageInfo]) -> list[str]:
    """Images must be as large as their annotations say; where sizes cannot tell how an image is turned, a warning."""
    wrong: dict[str, str] = {}
    unclear: dict[str, str] = {}
    turned = False
    for file, size, orient, annotated in placed:
        info = images[file]
        if size and size != info.size(orient):
            width, height = info.size(orient)
            wrong[file] = f"{width}x{height} pixels, {size[0]}x{size[1]} in its annotations"
            if size == info.size(not orient):
                turned = True
                wrong[file] += f" (orientation tag {info.orientation})"
        elif annotated and info.orientation != 1 and info.size(True) == info.size(False):
            unclear[file] = "turned" if orient else "not turned"
    if wrong:
        title = f"{len(wrong)} of {len(images)} images have another size than their annotations say"
        listing = _list_files(title, wrong)
        if turned:
            listing += (
                "\nImages with an orientation tag are to be annotated as they are loaded: turned, or, with "
                "LoadImageFromFile(color_type='color_ignore_orientation'), as they are stored"
            )
        raise ValueError(listing)
    if not unclear:
        return []
    first, how = next(iter(unclear.items()))
    return [
        f"{len(unclear)} images have an orientation tag (upside down, mirrored) that their size does not show (first: "
        f"{first}): they are {how} by the loader, and their annotations must be made for that"
    ]


def _list_files(title: str, files: dict[str, str], most: int = 50) -> str:
    lines = [f"  {file}: {reason}" for file, reason in list(files.items())[:most]]
    more = [f"  ... and {len(files) - most} more"] if len(files) > most else []
    return "\n".join([f"{title}:", *lines, *more])
