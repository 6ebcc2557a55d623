"""Detection and segmentation data made on the spot: complete or absent, always the same, true to the pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image
from pycocotools import mask as rle

from backbones.mm.training import digit_scenes, run
from backbones.mm.training.digit_scenes import CLASSES, write_digit_scenes
from backbones.mm.training.digits import read_scans

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(ROOT.glob("configs/*/*/*_digits-256x192.py"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=6, val=3)


def load_map(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.mode == "L"
        return np.array(image)


def test_annotations_and_maps_agree(scenes):
    for split, count in (("train", 6), ("val", 3)):
        content = json.loads((scenes / "annotations" / f"{split}.json").read_text())
        assert [c["name"] for c in content["categories"]] == list(CLASSES)
        assert len(content["images"]) == count
        assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
        for entry in content["images"]:
            with Image.open(scenes / "images" / split / entry["file_name"]) as image:
                assert image.size == (entry["width"], entry["height"]) == (384, 288)
            instances = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
            assert 1 <= len(instances) <= 9
            painted = np.zeros((288, 384), dtype=int)
            for instance in instances:
                mask = rle.decode(instance["segmentation"])
                x, y, w, h = instance["bbox"]
                inside = mask[y : y + h, x : x + w]
                assert inside.sum() == mask.sum() == instance["area"]
                # the box is tight
                assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
                assert not (painted * mask).any(), "digits overlap"
                painted += mask * (instance["category_id"] + 1)
            assert (painted == load_map(scenes / "maps" / split / entry["file_name"].replace("jpg", "png"))).all()


def test_seed_decides(scenes, tmp_path):
    def content(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    first = content(scenes)
    assert first == content(write_digit_scenes(tmp_path / "again", train=6, val=3))
    other = content(write_digit_scenes(tmp_path / "other", train=6, val=3, seed=1))
    assert first.keys() == other.keys() and all(first[name] != other[name] for name in first if "images" in name)


def test_splits_share_neither_digits_nor_background():
    """Numbers of scans are disjoint; crops of a photograph that brightens to the right stay on their side."""
    scans = read_scans()
    assert not {n for n, *_ in scans["train"]} & {n for n, *_ in scans["val"]}
    columns = np.broadcast_to(np.arange(640, dtype=np.float64)[None, :, None] / 640 * 255, (427, 640, 3))
    seen = {
        split: np.concatenate(
            [digit_scenes._background([columns.astype(np.uint8)], split, np.random.default_rng(i)) for i in range(20)]
        )
        for split in ("train", "val")
    }
    border = 255 * digit_scenes.TRAINING_COLUMNS * digit_scenes.DIMMED
    assert seen["train"].max() <= border <= seen["val"].min() + 1


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_digit_scenes(tmp_path / "scenes", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_left_alone(scenes, tmp_path):
    (tmp_path / "mine").mkdir()
    write_digit_scenes(tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_unknown_task():
    with pytest.raises(ValueError, match="'depth': the scenes have annotations for 'detection' and 'segmentation'"):
        digit_scenes.build_digit_scenes("val", "depth", [])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_fit(path, scenes):
    """The data reach the model in its size, with all objects; names say what is built."""
    from mmengine.registry import init_default_scope

    text = path.read_text()
    assert f"Run: backbones train {path.stem}" in text
    cfg = run.load_config(path)
    init_default_scope(cfg.default_scope)
    run._check_model(cfg.model)
    method = path.stem.split("_")[1]
    head = cfg.model.decode_head.type if "decode_head" in cfg.model else cfg.model.type
    names = {"RetinaNet": "retinanet-fpn", "MaskRCNN": "mask-rcnn-fpn", "FPNHead": "semfpn", "UPerHead": "upernet"}
    assert names[head] == method and cfg.model.backbone.model == f"test_{path.parents[1].name}"
    assert f"_1xb{cfg.train_dataloader.batch_size}-{cfg.train_cfg.max_iters}i_" in path.name
    for loader, size in (("train_dataloader", 6), ("val_dataloader", 3)):
        dataset = DATASETS.build(dict(cfg[loader].dataset, data_root=str(scenes)))
        run.check_class_counts(cfg.model, len(dataset.metainfo["classes"]), path.stem)
        assert len(dataset) == size
        for i in range(size):
            sample = dataset[i]
            assert sample["inputs"].shape == (3, 192, 256)
            annotations = sample["data_samples"]
            if path.parent.name == "detection":
                truth = annotations.gt_instances
                assert len(truth.bboxes) == len(truth.masks) == len(dataset.get_data_info(i)["instances"]) > 0
            else:
                assert len(annotations.gt_sem_seg.data.unique()) > 1
