"""Detection and segmentation data without a download: scanned digits pasted on photographs, with boxes and masks.

Digits are scikit-learn's scans in bright colours, backgrounds are dimmed crops of its two sample photographs. Training
scenes have scans of the training split on the left part of the photographs, validation scenes held-out scans on the
right part, so that neither a digit nor a pixel of background is seen twice.
"""

import json
import os
from pathlib import Path

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DATASETS
from numpy.random import Generator
from PIL import Image

from backbones.mm.training.digits import complete_or_absent, read_scans

__all__ = ["CLASSES", "PALETTE", "build_digit_scenes", "write_digit_scenes"]

WIDTH, HEIGHT = 384, 288
SIDES = 48, 112  # pixels of a pasted scan
DIMMED = 0.6  # photographs, so that every digit can be read
TRAINING_COLUMNS = 0.6  # share of a photograph's width
CLASSES = tuple("0123456789")
# matplotlib's tab10
PALETTE = [
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
    (188, 189, 34),
    (23, 190, 207),
]


def _background(photographs: list[np.ndarray], split: str, rng: Generator) -> np.ndarray:
    """A crop of the split's part of a photograph, at a random zoom, dimmed, (HEIGHT, WIDTH, 3) in uint8."""
    photograph = photographs[rng.integers(len(photographs))]
    border = int(photograph.shape[1] * TRAINING_COLUMNS)
    part = photograph[:, :border] if split == "train" else photograph[:, border:]
    width = int(part.shape[1] * rng.uniform(0.5, 1))
    height = width * HEIGHT // WIDTH
    y, x = rng.integers(part.shape[0] - height + 1), rng.integers(part.shape[1] - width + 1)
    crop = Image.fromarray(part[y : y + height, x : x + width])
    return (np.array(crop.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) * DIMMED).astype(np.uint8)


def _paste(scene: np.ndarray, scan: np.ndarray, taken: np.ndarray, rng: Generator) -> np.ndarray | None:
    """Draw a scan into ``scene`` where ``taken`` (HEIGHT, WIDTH) is free; its mask, None if there is no room."""
    low, high = np.log(SIDES)
    for _ in range(20):
        side = int(np.exp(rng.uniform(low, high)))
        y, x = rng.integers(HEIGHT - side + 1), rng.integers(WIDTH - side + 1)
        place = slice(y, y + side), slice(x, x + side)
        if not taken[place].any():
            break
    else:
        return None
    ink = np.array(Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC)) / 255
    opacity = np.clip((ink - 0.25) * 2, 0, 1)[..., None]  # a steeper edge than eight pixels would have
    colour = rng.integers(180, 256, 3)
    scene[place] = scene[place] * (1 - opacity) + colour * opacity
    taken[place] = True
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[place] = opacity[..., 0] >= 0.5
    return mask


def write_digit_scenes(
    root: str | os.PathLike = "data/digit_scenes", train: int = 800, val: int = 100, seed: int = 0
) -> Path:
    """Write scenes of up to nine digits, 384x288 pixels, for detection and segmentation; return ``root``.

    ``images/{train,val}/*.jpg``; ``annotations/{train,val}.json`` in COCO's format with boxes and run-length masks, the
    category ids are the digits; ``maps/{train,val}/*.png`` with 0 for background and digit + 1.

    The folder appears complete or not at all, and a folder that exists is left alone.

    Args:
        train, val: number of scenes.
        seed: the same seed gives the same scenes.
    """
    root = Path(root)
    if root.exists():
        return root
    from pycocotools.mask import encode
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    with complete_or_absent(root) as scratch:
        (scratch / "annotations").mkdir()
        for split, count in (("train", train), ("val", val)):
            rng = np.random.default_rng([seed, split == "val"])
            scans = read_scans()[split]
            images: list[dict] = []
            annotations: list[dict] = []
            for folder in ("images", "maps"):
                (scratch / folder / split).mkdir(parents=True)
            for i in range(count):
                scene = _background(photographs, split, rng)
                taken = np.zeros((HEIGHT, WIDTH), dtype=bool)
                labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
                for number in rng.choice(len(scans), rng.integers(5, 10), replace=False):
                    _, scan, digit = scans[number]
                    mask = _paste(scene, scan, taken, rng)
                    if mask is None:
                        continue
                    labels[mask > 0] = digit + 1
                    (y0, x0), (y1, x1) = (f(np.nonzero(mask), axis=1) for f in (np.min, np.max))
                    rle = encode(np.asfortranarray(mask))
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": i,
                            "category_id": digit,
                            "bbox": [int(v) for v in (x0, y0, x1 - x0 + 1, y1 - y0 + 1)],
                            "area": int(mask.sum()),
                            "iscrowd": 0,
                            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                        }
                    )
                name = f"{i:04d}"
                Image.fromarray(scene).save(scratch / "images" / split / f"{name}.jpg", quality=90)
                Image.fromarray(labels).save(scratch / "maps" / split / f"{name}.png")
                images.append({"id": i, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            categories = [{"id": digit, "name": name} for digit, name in enumerate(CLASSES)]
            content = {"images": images, "annotations": annotations, "categories": categories}
            (scratch / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


@DATASETS.register_module(name="DigitScenes")
def build_digit_scenes(split: str, task: str, pipeline: list, data_root: str = "data/digit_scenes", **kwargs):
    """MMDetection's COCO dataset or MMSegmentation's dataset over the scenes; writes them first where they are missing.

    A function, not a subclass, so that importing ``backbones.mm`` imports neither library.

    Args:
        split: ``train`` (800 scenes) or ``val`` (100).
        task: ``detection`` (ten classes) or ``segmentation`` (background and ten classes).
        pipeline: transforms of the library.

    Raises:
        ValueError: another task.
    """
    if task not in ("detection", "segmentation"):
        raise ValueError(f"task {task!r}: the scenes have annotations for 'detection' and 'segmentation'")
    if is_main_process():
        write_digit_scenes(data_root)
    barrier()
    if task == "detection":
        options = dict(
            type="mmdet.CocoDataset",
            ann_file=f"annotations/{split}.json",
            data_prefix=dict(img=f"images/{split}"),
            metainfo=dict(classes=CLASSES, palette=PALETTE),
        )
    else:
        options = dict(
            type="mmseg.BaseSegDataset",
            data_prefix=dict(img_path=f"images/{split}", seg_map_path=f"maps/{split}"),
            metainfo=dict(classes=("background", *CLASSES), palette=[(0, 0, 0), *PALETTE]),
        )
    return DATASETS.build(dict(options, data_root=data_root, pipeline=pipeline, **kwargs))
