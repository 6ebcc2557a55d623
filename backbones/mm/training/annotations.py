"""Annotations of detection and segmentation data, looked at before training starts rather than when they are met."""

import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.images import ImageInfo, map_files

__all__ = ["IGNORED", "count_labels", "inspect_label_maps", "judge_labels", "label_meanings", "match_coco"]

IGNORED = -1  # among classes
NO_MASK = "objects have no mask, which this config trains"
CROWD = "objects are crowds (iscrowd=1), which are not learnt"


def match_coco(
    file: str | os.PathLike, classes: Sequence[str], images: str | os.PathLike, masks: bool
) -> tuple[dict | None, list[str]]:
    """Look through a COCO annotation file, and mend what can be mended.

    MMDetection numbers classes as the file lists its categories, whatever the order of ``classes``; so the categories
    are sorted by ``classes``. Areas that are missing are computed, a flat polygon is put into a list, objects whose box
    or mask cannot be read are taken out.

    Args:
        file: JSON with ``images``, ``annotations`` and ``categories``.
        classes: names that the dataset asks for.
        images: folder of the images.
        masks: whether every object needs a mask.

    Returns:
        The content as MMDetection should read it, None if that is the file itself. What was changed and what
        MMDetection leaves out without a word, counted: a sentence each, with the first object or image.

    Raises:
        ValueError: If it is no such file, two entries have one number or two categories one name, an annotation belongs
            to no image, has no box or no class, or no mask although masks are asked for, a class is in no category, an
            image is not in its folder, or no object is left.
    """
    try:
        content = json.loads(Path(file).read_text())
        entries, objects, categories = (content[key] for key in ("images", "annotations", "categories"))
        shapes = {entry["id"]: (entry["file_name"], entry["width"] + 0, entry["height"] + 0) for entry in entries}
        names = {category["id"]: category["name"] for category in categories}
        owners = [(o["id"], o["image_id"], o["category_id"], len(o["bbox"])) for o in objects]
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is no COCO annotation file: {type(error).__name__}: {error}") from error

    def stop(count: int, what: str, example: object) -> None:
        if count:
            raise ValueError(f"{file}: {count} {what}, for example {example}")

    for part, items in (("images", entries), ("annotations", objects), ("categories", categories)):
        twice = [number for number, count in Counter(item["id"] for item in items).items() if count > 1]
        stop(len(twice), f"numbers belong to several {part}", twice[:3])
    absent = [name for name in classes if name not in names.values()]
    stop(len(absent), f"classes of the dataset are no category ({', '.join(sorted(names.values())[:20])})", absent[:5])
    twice = [name for name, count in Counter(names.values()).items() if count > 1 and name in classes]
    stop(len(twice), "names belong to several categories: rename or unite them", twice[:3])
    lost = [o[0] for o in owners if o[1] not in shapes]
    stop(len(lost), "annotations belong to no image", f"annotation {lost[:1]}")
    short = [o[0] for o in owners if o[3] != 4]
    stop(len(short), "boxes are not x, y, width, height", f"annotation {short[:1]}")
    gone = [name for name, *_ in shapes.values() if not os.path.isfile(os.path.join(images, name))]
    stop(len(gone), f"of {len(shapes)} images are not in {images}", gone[:3])

    wanted, used = set(classes), set()
    odd: dict[str, list] = defaultdict(list)
    kept = []
    for entry in objects:
        number, (_, width, height) = entry["id"], shapes[entry["image_id"]]
        if names.get(entry["category_id"]) not in wanted:
            odd["objects of other classes are left out"].append(number)
            kept.append(entry)
            continue
        changes: dict[str, Any] = {} if "iscrowd" in entry else {"iscrowd": 0}  # pycocotools reads it
        box, mask = _numbers(entry["bbox"]), entry.get("segmentation") if masks else None
        if box is None:
            odd["objects whose box is not of numbers are left out"].append(number)
            continue
        if box != entry["bbox"]:
            odd["boxes are text, read as numbers"].append(number)
            changes["bbox"] = box
        if number == 0:  # pycocotools takes a match with number 0 for none: average precision would be too low
            odd["annotations have the number 0, which evaluation takes for none, and get another"].append(number)
            changes["id"] = 1 + max(owner[0] for owner in owners)
        mended = None
        if mask:
            mended, reason = _mend_mask(mask, width, height)
            if reason:
                odd[reason].append(number)
            if not mended:
                continue
            if mended != mask:
                changes["segmentation"] = mended
        x, y, w, h = box
        if [area := entry.get("area")] != _numbers([area]):
            odd["objects lack an area, which is computed"].append(number)
            area = changes["area"] = _mask_area(mended, width, height) if mended else w * h
        kept.append(entry | changes if changes else entry)
        if w < 1 or h < 1 or area <= 0:
            odd["objects without area are left out"].append(number)
        elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
            odd["objects outside their image are left out"].append(number)
        elif masks and not mask and not entry.get("ignore"):
            odd[NO_MASK].append(number)
        elif entry.get("iscrowd"):
            odd[CROWD].append(number)
        else:
            used.add(entry["image_id"])
            if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
                odd["boxes reach over the edge of their image and are clipped"].append(number)
    unmasked = odd.pop(NO_MASK, [])
    stop(len(unmasked), NO_MASK, f"annotation {unmasked[:1]}")
    if not used:
        reasons = {what: len(numbers) for what, numbers in odd.items()}
        raise ValueError(f"{file}: no object of {len(objects)} is of any use ({reasons or 'the file lists none'})")
    odd.pop(CROWD, None)  # as in COCO itself
    warnings = [f"{file}: {len(numbers)} {what} (first: annotation {numbers[0]})" for what, numbers in odd.items()]
    if empty := [entry["file_name"] for entry in entries if entry["id"] not in used]:
        warnings.append(f"{file}: {len(empty)} images have no object (first: {empty[0]})")

    changed = any(before is not after for before, after in itertools.zip_longest(objects, kept))
    order = [category["name"] for category in categories if category["name"] in wanted]
    if order != list(classes):
        warnings.append(f"{file}: its categories stand in another order than the classes, and are matched by name")
        place = {name: i for i, name in enumerate(classes)}
        categories = sorted(categories, key=lambda category: place.get(category["name"], len(place)))
        changed = True
    if changed:
        return dict(content, annotations=kept, categories=categories), warnings
    return None, warnings


def _numbers(values: Sequence) -> list[float] | None:
    """``values`` as finite numbers, None if one is none."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _mend_mask(mask: Any, width: int, height: int) -> tuple[list | dict | None, str | None]:
    """A COCO mask as pycocotools and MMDetection read it, None if there is no way, and what is odd about it."""
    if isinstance(mask, dict):
        counts, size = mask.get("counts"), mask.get("size")
        total = _run_total(counts) if isinstance(counts, str) else sum(_numbers(counts or [None]) or [-1])
        if size != [height, width] or total != width * height:
            return None, "objects whose run lengths have another size than their image are left out"
        return mask, None
    nested = isinstance(mask, list) and isinstance(mask[0], list)
    polygons = mask if nested else [mask]
    good = [n for p in polygons if isinstance(p, list) and len(p) % 2 == 0 and len(n := _numbers(p) or []) >= 6]
    if not good:
        return None, "objects whose polygon is not of three or more points x, y are left out"
    if not nested:
        return good, "polygons are not in a list, read as one"
    return good, "objects lose a polygon that is not of three or more points x, y" if len(good) < len(mask) else None


def _run_total(counts: str) -> int:
    """Number of pixels in COCO's compressed run lengths: six bits a character, five of value and one that more follow,
    each length from the third on as the difference to the one before the last."""
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        return -1
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << 5 * place, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    return int(values[0] + values[1::2].cumsum().sum() + values[2::2].cumsum().sum())


def _mask_area(mask: list | dict, width: int, height: int) -> float:
    from pycocotools.mask import area, frPyObjects, merge

    if isinstance(mask, dict) and isinstance(mask["counts"], str):
        return float(area(mask))
    runs = frPyObjects(mask, height, width)
    return float(area(merge(runs) if isinstance(runs, list) else runs))


def count_labels(file: str | os.PathLike, size: tuple[int, int], meanings: dict[int, int]) -> Counter[int]:
    """Pixels of each class in a semantic label map: one grey value or palette index a pixel.

    Args:
        file: label map.
        size: width and height of its image.
        meanings: class of each value that may be there.

    Raises:
        ValueError: If it is of no use; the message says why.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            if opened.mode in ("L", "P"):
                values = dict(enumerate(opened.histogram()))
            elif opened.mode in ("1", "I") or opened.mode.startswith("I;"):
                values = dict(zip(*(part.tolist() for part in np.unique(np.asarray(opened), return_counts=True))))
            else:
                raise ValueError(f"mode {opened.mode}: a label map has one value a pixel")
            found = opened.size
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ValueError(str(error) or type(error).__name__) from error
    if found != size:
        raise ValueError(f"{found[0]}x{found[1]} pixels, its image {size[0]}x{size[1]}")
    present = [int(value) for value, count in values.items() if count]
    if wrong := sorted(set(present) - meanings.keys()):
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        raise ValueError(f"labels {shown} are of no class (a map has {_describe(meanings)})")
    counts: Counter[int] = Counter()
    for value in present:
        counts[meanings[value]] += values[value]
    return counts


def _describe(meanings: dict[int, int]) -> str:
    values = sorted(value for value, meaning in meanings.items() if meaning != IGNORED)
    ignored = ", ".join(str(value) for value, meaning in sorted(meanings.items()) if meaning == IGNORED)
    return f"{values[0]} to {values[-1]}; ignored are {ignored}"


def label_meanings(dataset: Any) -> dict[int, int]:
    """Class of each value in the label maps of one of MMSegmentation's datasets; ``IGNORED`` for those of none."""
    shift = int(dataset.reduce_zero_label)  # 0 in the file is nothing then, and 1 the first class
    numbers = dataset.label_map or {i: i for i in range(len(dataset.metainfo["classes"]))}
    meanings = {old + shift: IGNORED if new == dataset.ignore_index else new for old, new in numbers.items()}
    return meanings | {dataset.ignore_index: IGNORED} | ({0: IGNORED} if shift else {})


def inspect_label_maps(
    dataset: Any, infos: dict[str, ImageInfo], orient: bool
) -> tuple[dict[str, str], dict[str, Counter[int]]]:
    """Label maps of one of MMSegmentation's datasets: why some are of no use, and the classes of the others' pixels.

    Args:
        dataset: one that has no label maps gives nothing.
        infos: its images, by name.
        orient: whether images are rotated as their orientation tags say.
    """
    if not hasattr(dataset, "reduce_zero_label"):
        return {}, {}
    samples = (dataset.get_data_info(i) for i in range(len(dataset)))
    images = {str(sample["seg_map_path"]): str(sample["img_path"]) for sample in samples if sample.get("seg_map_path")}
    meanings = label_meanings(dataset)

    def count(file: str) -> Counter[int] | str:
        try:
            return count_labels(file, infos[images[file]].size(orient), meanings)
        except ValueError as error:
            return str(error)

    results = map_files(count, images, progress="checking label maps")
    bad = {file: result for file, result in results.items() if isinstance(result, str)}
    return bad, {file: result for file, result in results.items() if not isinstance(result, str)}


def judge_labels(counts: dict[str, Counter[int]], classes: Sequence[str]) -> list[str]:
    """What is odd about the classes of the label maps that a model is trained on, a sentence each.

    Args:
        counts: pixels of each class in each map.
        classes: names.

    Raises:
        ValueError: If only one class occurs, so that there is nothing to learn.
    """
    total: Counter[int] = sum(counts.values(), Counter())
    share = total[IGNORED] / max(total.total(), 1)
    present = [i for i in total if i != IGNORED and total[i]]
    missing = [name for i, name in enumerate(classes) if i not in present]
    if len(present) < 2 <= len(classes):
        only = f"only pixels of {classes[present[0]]!r}" if present else "no pixel of any class"
        raise ValueError(
            f"{len(counts)} label maps for training have {only}, and {share:.1%} are ignored (255), so that there is "
            f"nothing to learn: write the number of each class, 0 to {len(classes) - 1}, into the maps"
        )
    warnings = []
    if missing:
        warnings.append(f"no pixel of {len(counts)} label maps for training is of {', '.join(missing[:20])}")
    if share > 0.5:
        warnings.append(f"{share:.1%} of the pixels of {len(counts)} label maps for training are ignored")
    if empty := [file for file, count in counts.items() if count.keys() <= {IGNORED}]:
        warnings.append(f"{len(empty)} label maps have no label (first: {empty[0]})")
    return warnings
