"""Five images with boxes, masks and label maps, small enough to break in tests, and configs that read them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("disc", "bar")
WIDTH, HEIGHT = 96, 64

LOADING = """
data_root = {root!r}
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", {loads}),
    dict(type="Resize", scale={size}),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="{pack}"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale={size}),
    dict(type="LoadAnnotations", {loads}),
    dict(type="{pack}"),
]
data = dict(_delete_=True, type="{kind}", data_root=data_root, metainfo=dict(classes={classes}), {source})
train_dataloader = dict(batch_size=2, dataset=dict(**data, pipeline=train_pipeline))
val_dataloader = dict(batch_size=5, dataset=dict(**data, pipeline=test_pipeline{testing}))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


def write_dense_data(root: Path) -> Path:
    """``root/{images,maps}/<i>.png`` and ``root/objects.json``: one disc (label 1) and one bar (label 2) an image."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for folder in ("images", "maps"):
        (root / folder).mkdir(parents=True)
    for i in range(5):
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        cx, cy, radius = rng.integers(20, 40), rng.integers(20, 44), rng.integers(8, 16)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        left, top = (int(v) for v in rng.integers((60, 5), (70, 30)))
        bar = (x >= left) & (x < left + 20) & (y >= top) & (y < top + 24)
        pixels = rng.integers(0, 80, (HEIGHT, WIDTH, 3)) + 150 * (disc | bar)[..., None]
        Image.fromarray(pixels.astype("uint8")).save(root / f"images/{i}.png")
        Image.fromarray((disc + 2 * bar).astype("uint8")).save(root / f"maps/{i}.png")
        images.append(dict(id=i, file_name=f"{i}.png", width=WIDTH, height=HEIGHT))
        boxes = [(cx - radius, cy - radius, 2 * radius, 2 * radius), (left, top, 20, 24)]
        for category, box in enumerate(boxes):
            a, b, w, h = map(float, box)
            polygon = [[a, b, a + w, b, a + w, b + h, a, b + h]]
            entry = dict(
                id=len(annotations) + 1, image_id=i, category_id=category, bbox=[a, b, w, h], area=w * h, iscrowd=0
            )
            annotations.append(dict(entry, segmentation=polygon))
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / "objects.json").write_text(json.dumps(content))
    return root


def write_detection_config(path: Path, root: Path, model: str, masks: bool = False, extra: str = "") -> str:
    """A config of one of the digits detectors (``retinanet`` or ``mask-rcnn``) on ``test_van`` over these images."""
    heads = (
        f"roi_head=dict(bbox_head=dict(num_classes={len(CLASSES)}), mask_head=dict(num_classes={len(CLASSES)}))"
        if model == "mask-rcnn"
        else f"bbox_head=dict(num_classes={len(CLASSES)})"
    )
    loading = LOADING.format(
        root=str(root),
        size=(WIDTH, HEIGHT),
        loads=f"with_bbox=True, with_mask={masks}",
        pack="PackDetInputs",
        kind="CocoDataset",
        classes=CLASSES,
        source='ann_file="objects.json", data_prefix=dict(img="images")',
        testing=", test_mode=True",
    )
    evaluator = f'val_evaluator = dict(ann_file="{root}/objects.json")\ntest_evaluator = val_evaluator\n'
    return _write(path, "detection", model, heads, loading + evaluator + extra)


def write_segmentation_config(path: Path, root: Path, model: str = "semfpn", extra: str = "") -> str:
    """A config of one of the digits segmenters on ``test_van`` over these images."""
    loading = LOADING.format(
        root=str(root),
        size=(WIDTH, HEIGHT),
        loads="",
        pack="PackSegInputs",
        kind="BaseSegDataset",
        classes=("background", *CLASSES),
        source='img_suffix=".png", data_prefix=dict(img_path="images", seg_map_path="maps")',
        testing="",
    )
    heads = f"decode_head=dict(num_classes={len(CLASSES) + 1}, loss_decode=dict(class_weight=[0.1, 1.0, 1.0]))"
    return _write(
        path, "segmentation", model, f"{heads}, data_preprocessor=dict(size={HEIGHT, WIDTH})", loading + extra
    )


def _write(path: Path, task: str, model: str, heads: str, rest: str) -> str:
    bases = [str(ROOT / f"configs/_base_/models/{model}_digits.py"), str(ROOT / f"configs/_base_/{task}_digits.py")]
    backbone = 'backbone=dict(model="test_van", drop_path_rate=0.2), neck=dict(in_channels=[16, 32, 48, 64])'
    path.write_text(f"_base_ = {bases}\nmodel = dict({backbone}, {heads})\n{rest}")
    return str(path)
