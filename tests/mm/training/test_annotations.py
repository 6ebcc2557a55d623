"""Annotations are judged before a run meets them."""

import json

import numpy as np
import pytest
from PIL import Image

from backbones.mm.training.annotations import EMPTY, check_coco, check_label_map
from tests.dense_data import CLASSES, write_dense_data

pytestmark = pytest.mark.mm


@pytest.fixture
def root(tmp_path):
    return write_dense_data(tmp_path / "data")


def check(root, change=None, masks=True):
    file = root / "objects.json"
    if change:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    return check_coco(file, CLASSES, root / "images", masks)


def test_good_annotations_raise_no_word(root):
    assert check(root) == []


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
    assert warning == f"{root}/objects.json: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "no COCO annotation file: KeyError: 'categories'"),
        (lambda c: c["annotations"][2].pop("bbox"), "no COCO annotation file: KeyError: 'bbox'"),
        (set_box(1, 1, 2, 3), r"1 boxes are not x, y, width, height, for example annotation \[1\]"),
        (lambda c: c["images"][1].update(id=0), r"1 numbers belong to several images, for example \[0\]"),
        (lambda c: c["annotations"][1].update(id=0), r"1 numbers belong to several annotations, for example \[0\]"),
        (lambda c: c["annotations"][1].update(image_id=9), r"1 annotations belong to no image, .* annotation \[1\]"),
        (lambda c: c["categories"][1].update(name="Bar"), r"1 classes .* no category \(Bar, disc\).*\['bar'\]"),
        (lambda c: c["annotations"][4].update(segmentation=[]), r"1 objects have no mask.*annotation \[4\]"),
        (lambda c: c["annotations"].clear(), "no object of 0 is of any use .*lists none"),
        (lambda c: [a.update(category_id=5) for a in c["annotations"]], "no object of 10 is of any use"),
        (lambda c: c["images"][3].update(file_name="9.png"), r"1 of 5 images are not in .*images.*\['9.png'\]"),
    ],
)
def test_what_cannot_be_trained_with_is_an_error(root, change, message):
    with pytest.raises(ValueError, match=f"objects.json.*{message}"):
        check(root, change)


def test_boxes_alone_need_no_masks(root):
    assert check(root, lambda c: c["annotations"][4].update(segmentation=[]), masks=False) == []


def test_broken_file_is_named(root):
    (root / "objects.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="objects.json is no COCO annotation file"):
        check(root)


def test_label_maps(tmp_path):
    image, file = str(tmp_path / "image.png"), str(tmp_path / "map.png")
    Image.new("RGB", (4, 2)).save(image)

    def reason(values, labels=(0, 1, 2)):
        Image.fromarray(np.array(values, dtype="uint8")).save(file)
        return check_label_map(file, image, set(labels), ignored=255)

    assert reason([[0, 1, 2, 255]] * 2) is None
    assert reason([[255] * 4] * 2) == EMPTY
    assert reason([[0, 1, 2, 3]] * 2) == "labels 3 are of no class (classes are 0 to 2, 255 is ignored)"
    assert reason([[0, 1, 2]] * 2) == "3x2 pixels, its image 4x2"
    assert reason([[[0, 1, 2]] * 4] * 2) == "mode RGB: a label map has one value a pixel"
    open(file, "wb").close()
    assert "cannot identify" in check_label_map(file, image, {0}, 255)
    assert check_label_map(str(tmp_path / "absent.png"), image, {0}, 255) == "is missing"
