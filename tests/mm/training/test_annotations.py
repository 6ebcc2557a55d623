"""Annotations are judged before a run meets them."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backbones.mm.training.annotations import IGNORED, count_labels, judge_labels, label_meanings, match_coco
from tests.dense_data import CLASSES, write_dense_data

pytestmark = pytest.mark.mm


@pytest.fixture
def root(tmp_path):
    return write_dense_data(tmp_path / "data")


def match(root, change=None, masks=True, classes=CLASSES):
    file = root / "objects.json"
    if change:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    return match_coco(file, classes, root / "images", masks)


def check(root, change=None, masks=True):
    return match(root, change, masks)[1]


def test_good_annotations_raise_no_word_and_stay(root):
    assert match(root) == (None, [])


def set_box(number, *box):
    return lambda content: content["annotations"][number].update(bbox=list(box))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_box(0, 96, 0, 20, 20), "1 objects outside their image are left out"),
        (set_box(0, -30, 0, 20, 20), "1 objects outside their image are left out"),
        (set_box(0, 5, 5, 0, 20), "1 objects without area are left out"),
        (set_box(0, 80, 40, 20, 20), "1 boxes reach over the edge of their image and are clipped"),
        (lambda c: c["annotations"].pop(0) and c["annotations"].pop(0), "1 images have no object"),
        (
            lambda c: c["categories"].append(dict(id=7, name="rest")) or c["annotations"][3].update(category_id=7),
            "1 objects of other classes are left out",
        ),
    ],
)
def test_what_is_left_out_is_counted(root, change, message):
    (warning,) = check(root, change)
    assert warning.startswith(f"{root}/objects.json: {message} (first: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "no COCO annotation file: KeyError: 'categories'"),
        (lambda c: c["annotations"][2].pop("bbox"), "no COCO annotation file: KeyError: 'bbox'"),
        (set_box(1, 1, 2, 3), r"1 boxes are not x, y, width, height, for example annotation \[2\]"),
        (lambda c: c["images"][1].update(id=0), r"1 numbers belong to several images, for example \[0\]"),
        (lambda c: c["annotations"][1].update(id=1), r"1 numbers belong to several annotations, for example \[1\]"),
        (lambda c: c["categories"].append(dict(id=8, name="bar")), r"1 names belong to several categories.*\['bar'\]"),
        (lambda c: c["categories"][1].update(id=0), r"1 numbers belong to several categories, for example \[0\]"),
        (lambda c: c["images"][1].update(width="96"), "no COCO annotation file: TypeError"),
        (lambda c: c["annotations"][1].update(image_id=9), r"1 annotations belong to no image, .* annotation \[2\]"),
        (lambda c: c["categories"][1].update(name="Bar"), r"1 classes .* no category \(Bar, disc\).*\['bar'\]"),
        (lambda c: c["annotations"][4].update(segmentation=[]), r"1 objects have no mask.*annotation \[5\]"),
        (lambda c: c["annotations"].clear(), "no object of 0 is of any use .*lists none"),
        (lambda c: [a.update(category_id=5) for a in c["annotations"]], "no object of 10 is of any use"),
        (lambda c: c["images"][3].update(file_name="9.png"), r"1 of 5 images are not in .*images.*\['9.png'\]"),
    ],
)
def test_what_cannot_be_trained_with_is_an_error(root, change, message):
    with pytest.raises(ValueError, match=f"objects.json.*{message}"):
        check(root, change)


def change(number, **values):
    """Replace entries of an annotation; None removes."""

    def apply(content):
        entry = content["annotations"][number]
        entry.update(values)
        for key in [key for key, value in entry.items() if value is None]:
            del entry[key]

    return apply


WIDTH, HEIGHT = 96, 64
TRIANGLE = [10, 10, 30, 10, 30, 30]


@pytest.mark.parametrize(
    ("values", "expected", "message"),
    [
        (dict(area=None), dict(area=480.0), "1 objects lack an area, which is computed (first: annotation 4)"),
        (dict(area="480"), dict(area=480.0), "1 objects lack an area, which is computed (first: annotation 4)"),
        (dict(area=float("nan")), dict(area=480.0), "1 objects lack an area"),
        (dict(iscrowd=None), dict(iscrowd=0), None),
        (dict(bbox=["1", "2.5", "30", "40"]), dict(bbox=[1, 2.5, 30, 40]), "1 boxes are text, read as numbers"),
        (dict(segmentation=TRIANGLE), dict(segmentation=[TRIANGLE]), "1 polygons are not in a list, read as one"),
        (
            dict(segmentation=[TRIANGLE, [1, 2, 3, 4]]),
            dict(segmentation=[TRIANGLE]),
            "1 objects lose a polygon that is not of three or more points x, y",
        ),
    ],
)
def test_what_can_be_mended_is_mended_and_counted(root, values, expected, message):
    content, warnings = match(root, change(3, **values))
    assert len(content["annotations"]) == 10 and content["annotations"][3].items() >= expected.items()
    assert [w.startswith(f"{root}/objects.json: {message}") for w in warnings] == [True] * bool(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(bbox=["left", 2, 3, 4]), "objects whose box is not of numbers"),
        (dict(bbox=[1, 2, float("nan"), 4]), "objects whose box is not of numbers"),
        (dict(segmentation=[TRIANGLE[:4]]), "objects whose polygon is not of three or more points x, y"),
        (dict(segmentation=[[*TRIANGLE, 5]]), "objects whose polygon is not of three or more points x, y"),
        (dict(segmentation=[*TRIANGLE, 5]), "objects whose polygon is not of three or more points x, y"),
        (dict(segmentation=[["a"] * 6]), "objects whose polygon is not of three or more points x, y"),
        (
            dict(segmentation=dict(size=[WIDTH, HEIGHT], counts=[WIDTH * HEIGHT])),
            "objects whose run lengths have another size than their image",
        ),
        (
            dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[5, 5])),
            "objects whose run lengths have another size than their image",
        ),
    ],
)
def test_what_cannot_be_read_is_taken_out_and_counted(root, values, message):
    content, (warning,) = match(root, change(3, **values))
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert warning == f"{root}/objects.json: 1 {message} are left out (first: annotation 4)"

    def spoil_all(content):
        for number in range(10):
            change(number, **values)(content)

    with pytest.raises(ValueError, match=f"no object of 10 is of any use .*{message}.*: 10"):
        match(root, spoil_all)


def test_number_0_is_no_number_for_evaluation(root):
    content, (warning,) = match(root, change(3, id=0))
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 11, 5, 6, 7, 8, 9, 10]
    assert "1 annotations have the number 0, which evaluation takes for none, and get another" in warning


def test_crowds_alone_are_nothing_to_learn(root):
    def crowd(content, count):
        for entry in content["annotations"][:count]:
            entry["iscrowd"] = 1

    assert match(root, lambda c: crowd(c, 1)) == (None, [])
    with pytest.raises(ValueError, match="no object of 10 is of any use .*crowds.*: 10"):
        match(root, lambda c: crowd(c, 10))


def test_run_lengths_of_any_mask_are_counted_as_pycocotools_does(root):
    from pycocotools.mask import encode

    rng = np.random.default_rng(0)
    for share in (0, 0.001, 0.1, 0.9, 1):
        mask = np.asfortranarray((rng.random((HEIGHT, WIDTH)) < share).astype(np.uint8))
        mask[:, :40] = 0  # long runs take several characters
        counts = encode(mask)["counts"].decode()
        good = dict(size=[HEIGHT, WIDTH], counts=counts)
        assert match(root, change(3, segmentation=good))[0] is None
        for bad in (dict(good, counts=counts[:-1]), dict(good, counts=counts + "1")):
            assert "run lengths" in match(root, change(3, segmentation=bad))[1][0]
        content, _ = match(root, change(3, segmentation=good, area=None))
        assert content["annotations"][3]["area"] == mask.sum()
        match(root, change(3, area=1.0))


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (7, 90), (2, 1)])
def test_categories_are_matched_by_name(root, ids):
    """MMDetection numbers classes in the order of the file, whatever the ids are."""

    def number(content):
        for category, new in zip(content["categories"], ids):
            category["id"] = new
        for entry in content["annotations"]:
            entry["category_id"] = ids[entry["category_id"]]

    assert match(root, number) == (None, [])
    content, (warning,) = match(root, classes=CLASSES[::-1])
    assert [(c["name"], c["id"]) for c in content["categories"]] == [("bar", ids[1]), ("disc", ids[0])]
    assert "its categories stand in another order than the classes, and are matched by name" in warning


def test_boxes_alone_need_no_masks(root):
    assert check(root, lambda c: c["annotations"][4].update(segmentation=[]), masks=False) == []


def test_broken_file_is_named(root):
    (root / "objects.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="objects.json is no COCO annotation file"):
        check(root)


def test_label_maps(tmp_path):
    file = tmp_path / "map.png"
    meanings = {0: 0, 1: 1, 2: 2, 255: IGNORED}

    def count(values, dtype="uint8", size=(4, 2)):
        Image.fromarray(np.array(values, dtype=dtype)).save(file)
        return count_labels(file, size, meanings)

    for dtype in ("uint8", "uint16"):
        assert count([[0, 1, 2, 255], [0, 0, 1, 1]], dtype) == {0: 3, 1: 3, 2: 1, IGNORED: 1}
    assert count([[0, 1, 1, 0]] * 2, bool) == {0: 4, 1: 4}
    for values, dtype, message in (
        ([[0, 1, 2, 3]] * 2, "uint8", r"labels 3 are of no class \(a map has 0 to 2; ignored are 255\)"),
        ([[0, 1, 2, 299]] * 2, "uint16", "labels 299 are of no class"),
        ([[0, 1, 2]] * 2, "uint8", "3x2 pixels, its image 4x2"),
        ([[[0, 1, 2]] * 4] * 2, "uint8", "mode RGB: a label map has one value a pixel"),
    ):
        with pytest.raises(ValueError, match=message):
            count(values, dtype)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot identify"):
        count_labels(file, (4, 2), meanings)
    with pytest.raises(ValueError, match="is missing"):
        count_labels(tmp_path / "absent.png", (4, 2), meanings)


@pytest.mark.parametrize(
    ("options", "meanings"),
    [
        (dict(), {0: 0, 1: 1, 255: IGNORED}),
        (dict(reduce_zero_label=True), {0: IGNORED, 1: 0, 2: 1, 255: IGNORED}),
        (dict(label_map={0: 255, 1: 1, 2: 0}), {0: IGNORED, 1: 1, 2: 0, 255: IGNORED}),
        (dict(label_map={0: 255, 1: 0}, reduce_zero_label=True), {0: IGNORED, 1: IGNORED, 2: 0, 255: IGNORED}),
    ],
)
def test_values_mean_what_mmsegmentation_makes_of_them(options, meanings):
    options = dict(reduce_zero_label=False, label_map=None) | options
    dataset = SimpleNamespace(metainfo=dict(classes=CLASSES), ignore_index=255, **options)
    assert label_meanings(dataset) == meanings


def test_classes_of_all_label_maps_are_judged():
    classes = ("background", "road", "car")
    judge = lambda *maps: judge_labels({f"{i}.png": Counter(m) for i, m in enumerate(maps)}, classes)  # noqa: E731
    assert judge({0: 5, 1: 5}, {2: 9, IGNORED: 3}) == []
    assert judge({0: 5, 1: 5}) == ["no pixel of 1 label maps for training is of car"]
    assert judge({0: 1, 1: 1, 2: 1, IGNORED: 4}) == ["57.1% of the pixels of 1 label maps for training are ignored"]
    assert judge({0: 5, 1: 5, 2: 5}, {IGNORED: 3}) == ["1 label maps have no label (first: 1.png)"]
    with pytest.raises(
        ValueError, match="2 label maps .* only pixels of 'background', and 25.0% are ignored .* 0 to 2"
    ):
        judge({0: 5, IGNORED: 1}, {0: 1, IGNORED: 1})
    with pytest.raises(ValueError, match="no pixel of any class, and 100.0% are ignored"):
        judge({IGNORED: 1})
