"""Annotations of detection and segmentation data, looked at before training starts rather than when they are met."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["EMPTY", "check_coco", "check_label_map", "find_bad_label_maps"]

EMPTY = "no label"


def check_coco(file: str | os.PathLike, classes: Sequence[str], images: str | os.PathLike, masks: bool) -> list[str]:
    """Look through a COCO annotation file.

    Args:
        file: JSON with ``images``, ``annotations`` and ``categories``.
        classes: names that the dataset asks for.
        images: folder of the images.
        masks: whether every object needs a mask.

    Returns:
        What MMDetection leaves out without a word, counted: objects outside their image or without area, of other
        classes, images without any object.

    Raises:
        ValueError: it is no such file, two entries have one number, an annotation belongs to no image, has no box or no
            class, or no mask although masks are asked for, a class is in no category, an image is not in its folder, or
            no object is left.
    """
    try:
        content = json.loads(Path(file).read_text())
        entries, objects, categories = (content[key] for key in ("images", "annotations", "categories"))
        shapes = {entry["id"]: (entry["file_name"], entry["width"], entry["height"]) for entry in entries}
        names = {category["id"]: category["name"] for category in categories}
        owners = [(o["id"], o["image_id"], o["category_id"], *map(float, o["bbox"])) for o in objects]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is no COCO annotation file: {type(error).__name__}: {error}") from error

    def stop(count: int, what: str, example: object) -> None:
        if count:
            raise ValueError(f"{file}: {count} {what}, for example {example}")

    absent = [name for name in classes if name not in names.values()]
    stop(len(absent), f"classes of the dataset are no category ({', '.join(sorted(names.values())[:20])})", absent[:5])
    for part, items in (("images", entries), ("annotations", objects)):
        twice = [number for number, count in Counter(item["id"] for item in items).items() if count > 1]
        stop(len(twice), f"numbers belong to several {part}", twice[:3])
    lost = [o[0] for o in owners if o[1] not in shapes]
    stop(len(lost), "annotations belong to no image", f"annotation {lost[:1]}")
    short = [o["id"] for o in objects if len(o["bbox"]) != 4]
    stop(len(short), "boxes are not x, y, width, height", f"annotation {short[:1]}")
    gone = [name for name, *_ in shapes.values() if not os.path.isfile(os.path.join(images, name))]
    stop(len(gone), f"of {len(shapes)} images are not in {images}", gone[:3])

    wanted, used = set(classes), set()
    odd: Counter[str] = Counter()
    unmasked = []
    for number, (entry, (_, image, category, x, y, w, h)) in enumerate(zip(objects, owners)):
        _, width, height = shapes[image]
        if names.get(category) not in wanted:
            odd["objects of other classes are left out"] += 1
        elif w < 1 or h < 1 or entry.get("area", w * h) <= 0:
            odd["objects without area are left out"] += 1
        elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
            odd["objects outside their image are left out"] += 1
        else:
            used.add(image)
            if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
                odd["boxes reach over the edge of their image and are clipped"] += 1
            if masks and not entry.get("segmentation") and not entry.get("ignore"):
                unmasked.append(number)
    stop(len(unmasked), "objects have no mask, which this config trains", f"annotation {unmasked[:1]}")
    if not used:
        raise ValueError(f"{file}: no object of {len(objects)} is of any use ({dict(odd) or 'the file lists none'})")
    odd["images have no object"] = len(shapes) - len(used)
    return [f"{file}: {count} {what}" for what, count in odd.items() if count]


def check_label_map(file: str, image: str, labels: set[int], ignored: int) -> str | None:
    """Why a semantic label map is of no use, None if it is.

    Args:
        file: label map, one grey value or palette index a pixel.
        image: its image.
        labels: values that mean a class (or nothing).
        ignored: value that means nothing.
    """
    try:
        with Image.open(file) as opened:
            size, values = opened.size, np.unique(np.asarray(opened))
            if opened.mode not in ("L", "P", "I", "I;16", "1"):
                return f"mode {opened.mode}: a label map has one value a pixel"
        with Image.open(image) as opened:
            if opened.size != size:
                return f"{size[0]}x{size[1]} pixels, its image {opened.size[0]}x{opened.size[1]}"
    except FileNotFoundError:
        return "is missing"
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        return str(error) or type(error).__name__
    if wrong := sorted(set(values.tolist()) - labels - {ignored}):
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        return f"labels {shown} are of no class (classes are {min(labels)} to {max(labels)}, {ignored} is ignored)"
    return EMPTY if set(values.tolist()) <= {ignored} else None


def find_bad_label_maps(dataset) -> dict[str, str]:
    """Label maps of one of MMSegmentation's datasets that cannot be trained with, with the reason (see
    :func:`check_label_map`); nothing for datasets without such maps."""
    if not hasattr(dataset, "reduce_zero_label"):
        return {}
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    files = [(info["seg_map_path"], info["img_path"]) for info in infos if info.get("seg_map_path")]
    # with reduce_zero_label, 0 in the file is nothing and 1 the first class
    labels = set(dataset.label_map or range(len(dataset.metainfo["classes"]) + bool(dataset.reduce_zero_label)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        reasons = pool.map(lambda pair: check_label_map(pair[0], pair[1], labels, dataset.ignore_index), files)
        return {file: reason for (file, _), reason in zip(files, reasons) if reason}
