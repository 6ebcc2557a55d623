"""Every loader of a run counts its classes alike, or the run stops."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope
from PIL import Image

from backbones.mm.training.matching import Names, match_data, trained_names
from tests.dense_data import CLASSES, write_dense_data

pytestmark = pytest.mark.mm


def write_folders(root: Path, *names: str) -> str:
    """Two images in each folder, named after it."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (8, 8)).save(root / name / f"{name} {i}.png")
    return str(root)


def classification(work_dir: Path, num_classes: int, **loaders: dict) -> Config:
    model = dict(
        type="ImageClassifier",
        backbone=dict(type="ZooBackbone", model="test_van", num_classes=num_classes, out_indices=None),
    )
    loaders = {
        f"{name}_dataloader": dict(dataset=dict(dict(type="CustomDataset", pipeline=[]), **options))
        for name, options in loaders.items()
    }
    return Config(dict(default_scope="mmpretrain", model=model, work_dir=str(work_dir), **loaders))


def labels(cfg: Config, loader: str) -> dict[str, int]:
    """Label of each image by its name, as the loader of a config gives it."""
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg[f"{loader}_dataloader"].dataset)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return {Path(info["img_path"]).stem: info["gt_label"] for info in infos if Path(info["img_path"]).exists()}


INSECTS = Names(("ant", "bee", "cat"), "epoch_3.pth")


@pytest.mark.parametrize("present", [("ant", "bee", "cat"), ("ant", "cat"), ("cat",), ("ant", "bee", "cat", ".hidden")])
def test_folders_have_the_numbers_of_training(tmp_path, present):
    root = write_folders(tmp_path / "test", *present)
    cfg = classification(tmp_path / "work", 3, test=dict(data_root=root))
    warnings = match_data(cfg, training=False, names=INSECTS)
    numbers = {name: i for i, name in enumerate(INSECTS.classes)}
    assert labels(cfg, "test") == {
        f"{name} {i}": numbers[name] for name in present if name in numbers for i in range(2)
    }
    missing = [name for name in INSECTS.classes if name not in present]
    assert bool(warnings) == bool(missing)
    if missing:
        assert f"has no images of {len(missing)} of 3 classes ({', '.join(missing)})" in warnings[0]
    init_default_scope("mmpretrain")
    assert DATASETS.build(cfg.test_dataloader.dataset).metainfo["classes"] == INSECTS.classes


def test_validation_has_the_numbers_of_training(tmp_path):
    train = write_folders(tmp_path / "train", "ant", "bee", "cat", ".ipynb_checkpoints")
    val = write_folders(tmp_path / "val", "bee", "cat")
    cfg = classification(tmp_path / "work", 3, train=dict(data_root=train), val=dict(data_root=val))
    (warning,) = match_data(cfg)
    assert "val has no images of 1 of 3 classes (ant)" in warning
    assert labels(cfg, "train") == {"ant 0": 0, "ant 1": 0, "bee 0": 1, "bee 1": 1, "cat 0": 2, "cat 1": 2}
    assert labels(cfg, "val") == {"bee 0": 1, "bee 1": 1, "cat 0": 2, "cat 1": 2}
    with pytest.raises(ValueError, match=r"is 2, but train_dataloader.dataset .* has 3 .*num_classes=3, or name those"):
        match_data(classification(tmp_path / "work", 2, train=dict(data_root=train), val=dict(data_root=val)))


def test_folders_that_are_no_class_stop_with_both_lists(tmp_path):
    train = write_folders(tmp_path / "train", "ant", "cat")
    val = write_folders(tmp_path / "val", "ant", "dog")
    cfg = classification(tmp_path / "work", 2, train=dict(data_root=train), val=dict(data_root=val))
    with pytest.raises(
        ValueError, match=r"val has folders that are no class \(dog\), .*train has the classes \(ant, cat\)"
    ):
        match_data(cfg)
    cfg = classification(tmp_path / "work", 3, test=dict(data_root=val))
    with pytest.raises(ValueError, match=r"\(dog\), epoch_3.pth has the classes \(ant, bee, cat\)"):
        match_data(cfg, training=False, names=INSECTS)
    resumed = classification(tmp_path / "work", 2, train=dict(data_root=write_folders(tmp_path / "more", "ant", "bee")))
    with pytest.raises(ValueError, match=r"\(bee\), epoch_1.pth has the classes \(ant, cat\)"):
        match_data(resumed, names=Names(("ant", "cat"), "epoch_1.pth"))


def test_names_in_the_config_are_names_of_folders(tmp_path):
    root = write_folders(tmp_path / "train", "ant", "bee")
    cfg = classification(tmp_path, 2, train=dict(data_root=root, metainfo=dict(classes=("bee", "ant"))))
    match_data(cfg)
    assert labels(cfg, "train") == {"bee 0": 0, "bee 1": 0, "ant 0": 1, "ant 1": 1}


def test_names_may_describe_folders(tmp_path):
    named = dict(metainfo=dict(classes=("tench", "goldfish")))
    train = dict(named, data_root=write_folders(tmp_path / "train", "n01", "n02"))
    val = dict(named, data_root=write_folders(tmp_path / "val", "n02"))
    cfg = classification(tmp_path, 2, train=train, val=val)
    warnings = match_data(cfg)
    assert "n01 is tench, n02 is goldfish" in warnings[0] and "(n01)" in warnings[1]
    assert labels(cfg, "val") == {"n02 0": 1, "n02 1": 1}


def test_folders_of_imagenet_are_known(tmp_path):
    root = write_folders(tmp_path / "val", "n01443537", "n15075141")
    options = dict(type="ImageNet", data_root=str(tmp_path), split="val")
    cfg = classification(tmp_path, 1000, test=options)
    (warning,) = match_data(cfg, training=False)
    assert "no images of 998 of 1000 classes" in warning
    assert labels(cfg, "test") == {"n01443537 0": 1, "n01443537 1": 1, "n15075141 0": 999, "n15075141 1": 999}
    write_folders(tmp_path / "val", "n00000000")
    with pytest.raises(ValueError, match=r"folders that are no class \(n00000000\)"):
        match_data(classification(tmp_path, 1000, test=options), training=False)
    assert root


@pytest.mark.parametrize("kind", ["CustomDataset", "mmpretrain.CustomDataset"])
def test_one_text_is_no_list_of_names(tmp_path, kind):
    root = write_folders(tmp_path / "train", "apple")
    cfg = classification(tmp_path, 1, train=dict(type=kind, data_root=root, metainfo=dict(classes="apple")))
    with pytest.raises(ValueError, match=r"train_dataloader.dataset are 'apple', one text.*classes=\('apple',\)"):
        match_data(cfg)
    cfg.train_dataloader.dataset.metainfo.classes = ("apple", "apple")
    with pytest.raises(ValueError, match="classes of one name"):
        match_data(cfg)
    names = tmp_path / "names.txt"
    names.write_text("apple\n")
    cfg.train_dataloader.dataset.metainfo.classes = str(names)
    match_data(cfg)


def test_names_of_a_checkpoint():
    meta = dict(dataset_meta=dict(classes=["a", "b"]))
    assert trained_names(dict(meta=meta), "a.pth") == Names(("a", "b"), "a.pth")
    assert trained_names(dict(meta=dict(CLASSES=("a",))), "a.pth").classes == ("a",)
    for nothing in (dict(), dict(meta=None), dict(meta=dict(dataset_meta=dict(classes=None)))):
        assert trained_names(nothing, "a.pth") is None


# Detection ------------------------------------------------------------------------------------------------------------


def detection(root: Path, work_dir: Path, classes=CLASSES, loaders=("train", "val"), file="objects.json") -> Config:
    dataset = dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file=file,
        data_prefix=dict(img="images"),
        metainfo=dict(classes=classes),
        pipeline=[],
    )
    evaluator = dict(type="CocoMetric", ann_file=f"{root}/{file}", metric="bbox")
    parts = {f"{name}_dataloader": dict(dataset=dict(dataset)) for name in loaders}
    parts |= {f"{name}_evaluator": dict(evaluator) for name in loaders if name != "train"}
    model = dict(backbone=dict(), bbox_head=dict(num_classes=len(classes)))
    return Config(dict(default_scope="mmdet", model=model, work_dir=str(work_dir), **parts))


def objects(cfg: Config, loader: str) -> list:
    """Label and box of every object, as the loader of a config gives them."""
    init_default_scope("mmdet")
    dataset = DATASETS.build(cfg[f"{loader}_dataloader"].dataset)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(entry["bbox_label"], *entry["bbox"]) for info in infos for entry in info["instances"]]


def rewrite(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def truth(root: Path, classes=CLASSES) -> list:
    content = json.loads((root / "objects.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    boxes = [(names[a["category_id"]], *a["bbox"]) for a in content["annotations"]]
    return [(classes.index(name), x, y, x + w, y + h) for name, x, y, w, h in boxes]


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[::-1]])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [(0, 1), (7, 90), (2, 1)])
def test_categories_have_the_numbers_of_the_classes(tmp_path, classes, reverse, ids):
    """In the loaders and in the evaluation, whatever their order and ids in the file."""
    root = write_dense_data(tmp_path / "data")

    def number(content):
        for entry in content["annotations"]:
            entry["category_id"] = ids[entry["category_id"]]
        content["annotations"][0]["id"] = 0
        for category, new in zip(content["categories"], ids):
            category["id"] = new
        if reverse:
            content["categories"].reverse()

    rewrite(root / "objects.json", number)
    expected = truth(root, classes)
    cfg = detection(root, tmp_path / "work", classes)
    match_data(cfg)
    assert objects(cfg, "train") == objects(cfg, "val") == expected

    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dict(classes=classes)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    import torch

    for info in map(dataset.get_data_info, range(len(dataset))):
        found = dict(
            bboxes=torch.tensor([entry["bbox"] for entry in info["instances"]]),
            labels=torch.tensor([entry["bbox_label"] for entry in info["instances"]]),
            scores=torch.ones(len(info["instances"])),
        )
        metric.process({}, [dict(img_id=info["img_id"], ori_shape=(64, 96), pred_instances=found)])
    assert metric.evaluate(len(dataset))["coco/bbox_mAP"] == 1.0


def test_missing_areas_are_computed_for_training_and_evaluation(tmp_path):
    root = write_dense_data(tmp_path / "data")
    expected = truth(root)
    rewrite(root / "objects.json", lambda c: [entry.pop("area") for entry in c["annotations"]])
    cfg = detection(root, tmp_path / "work")
    before = (root / "objects.json").read_text()
    warnings = match_data(cfg)
    assert "10 objects lack an area, which is computed" in warnings[0]
    assert objects(cfg, "train") == expected
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file != f"{root}/objects.json"
    assert Path(cfg.val_evaluator.ann_file).is_relative_to(tmp_path / "work/annotations")
    assert (root / "objects.json").read_text() == before
    assert match_data(cfg) == []  # a run from the config as it was run


def test_masks_that_only_evaluation_reads_are_mended(tmp_path):
    root = write_dense_data(tmp_path / "data")
    rewrite(root / "objects.json", lambda c: c["annotations"][3].update(segmentation=[[1, 2, 3, 4]]))
    assert match_data(detection(root, tmp_path / "work")) == []  # boxes alone
    cfg = detection(root, tmp_path / "work")
    cfg.val_evaluator.metric = ["bbox", "segm"]
    assert "1 objects whose polygon is not of three or more points" in match_data(cfg)[0]


def test_good_annotations_are_read_where_they_are(tmp_path):
    root = write_dense_data(tmp_path / "data")
    cfg = detection(root, tmp_path / "work")
    before = cfg.pretty_text
    assert match_data(cfg) == []
    assert cfg.pretty_text == before and not (tmp_path / "work").exists()


def test_an_evaluator_must_read_what_its_loader_reads(tmp_path):
    root = write_dense_data(tmp_path / "data")
    (root / "other.json").write_text((root / "objects.json").read_text())
    cfg = detection(root, tmp_path / "work")
    cfg.val_evaluator.ann_file = f"{root}/other.json"
    with pytest.raises(
        ValueError, match=r"val_evaluator.ann_file is .*other.json, but val_dataloader reads .*objects.json"
    ):
        match_data(cfg)


def test_names_of_all_loaders_and_the_checkpoint_are_the_same(tmp_path):
    root = write_dense_data(tmp_path / "data")
    cfg = detection(root, tmp_path / "work")
    cfg.val_dataloader.dataset.metainfo.classes = CLASSES[::-1]
    match_data(cfg)  # by name
    assert tuple(cfg.val_dataloader.dataset.metainfo.classes) == CLASSES
    assert objects(cfg, "val") == truth(root)
    cfg.val_dataloader.dataset.metainfo.classes = CLASSES[:1]
    with pytest.raises(ValueError, match=r"val_dataloader.dataset has the classes \(disc\), train.* \(disc, bar\)"):
        match_data(cfg)
    tested = detection(root, tmp_path / "work", loaders=("test",))
    match_data(tested, training=False, names=Names(CLASSES[::-1], "a.pth"))
    assert objects(tested, "test") == truth(root, CLASSES[::-1])
    with pytest.raises(ValueError, match=r"has the classes \(disc, bar\), a.pth \(disc, car\): the same names"):
        match_data(detection(root, tmp_path, loaders=("test",)), training=False, names=Names(("disc", "car"), "a.pth"))


# Segmentation ---------------------------------------------------------------------------------------------------------


def segmentation(work_dir: Path, classes, **options) -> Config:
    dataset = dict(dict(type="BaseSegDataset", metainfo=dict(classes=classes)), **options)
    model = dict(backbone=dict(), decode_head=dict(num_classes=len(classes)))
    loaders = dict(train_dataloader=dict(dataset=dataset), val_dataloader=dict(dataset=dict(dataset)))
    return Config(dict(default_scope="mmseg", model=model, work_dir=str(work_dir), **loaders))


def test_more_classes_than_a_label_map_holds(tmp_path):
    names = [str(i) for i in range(300)]
    assert match_data(segmentation(tmp_path, names[:255])) == []
    with pytest.raises(
        ValueError, match="has 256 classes, but MMSegmentation reads label maps in eight bits, for 255:"
    ):
        match_data(segmentation(tmp_path, names[:256]))
    with pytest.raises(ValueError, match="has 255 classes, .* for 254:"):
        match_data(segmentation(tmp_path, names[:255], reduce_zero_label=True))


def test_numbers_in_label_maps_have_one_name(tmp_path):
    cfg = segmentation(tmp_path, ("road", "car"))
    cfg.val_dataloader.dataset.metainfo.classes = ("car", "road")
    with pytest.raises(
        ValueError, match=r"val_dataloader.dataset has the classes \(car, road\), train.* \(road, car\)"
    ):
        match_data(cfg)
    cfg = segmentation(tmp_path, ("wall", "sky"), type="ADE20KDataset")
    cfg.val_dataloader.dataset.metainfo.classes = ("sky", "wall")
    match_data(cfg)  # numbers of known data sets are given new ones by their names
    assert tuple(cfg.val_dataloader.dataset.metainfo.classes) == ("wall", "sky")


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("train_dataloader.dataset", "ignore_index"),
        ("model.decode_head", "ignore_index"),
        ("val_evaluator", "ignore_index"),
        ("model.data_preprocessor", "seg_pad_val"),
    ],
)
def test_one_number_is_ignored_everywhere(tmp_path, place, key):
    cfg = segmentation(tmp_path, ("road", "car"))
    cfg.val_evaluator = dict(type="IoUMetric")
    cfg.merge_from_dict({f"{place}.{key}": 0})
    with pytest.raises(ValueError, match="dataset.ignore_index is (0|255), but .*(0|255): set"):
        match_data(cfg)
    for other in ("train_dataloader.dataset", "val_dataloader.dataset", "model.decode_head", "val_evaluator"):
        cfg.merge_from_dict({f"{other}.ignore_index": 0, "model.data_preprocessor.seg_pad_val": 0})
    assert match_data(cfg) == []
