"""Data sets are compared with their files before a run."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import ConfigDict
from PIL import Image

from backbones.mm.training.checks import check_data
from backbones.mm.training.loading import LoadImage
from tests.test_images import tagged

pytestmark = pytest.mark.mm


class Data:
    """What the checks ask of a data set of any of OpenMMLab's libraries."""

    def __init__(self, infos: list[dict], classes=("ant", "bee"), **options) -> None:
        self.infos, self.metainfo = infos, dict(classes=classes)
        self.pipeline = SimpleNamespace(transforms=[LoadImage(**options)])

    def __len__(self) -> int:
        return len(self.infos)

    def get_data_info(self, index: int) -> dict:
        return self.infos[index]


class Maps(Data):
    reduce_zero_label, label_map, ignore_index = False, None, 255


@pytest.fixture
def images(tmp_path):
    """Stored as 40x30 pixels, with the orientation that their name says."""
    for orientation in (1, 3, 6):
        Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / f"{orientation}.jpg", **tagged(orientation))
    return tmp_path


def image(folder, name, width, height, **info) -> dict:
    return dict(img_path=f"{folder}/{name}.jpg", width=width, height=height, **info)


def test_images_are_as_large_as_their_annotations_say(images):
    good = [image(images, 1, 40, 30), image(images, 6, 30, 40)]
    assert check_data([[Data(good)]], {}) == []
    with pytest.raises(ValueError) as error:
        check_data([[Data([*good, image(images, 6, 40, 30), image(images, 1, 50, 30)])]], {})
    lines = str(error.value).splitlines()
    assert lines[0] == "2 of 2 images have another size than their annotations say:"
    assert f"{images}/6.jpg: 30x40 pixels, 40x30 in its annotations (orientation tag 6)" in lines[1]
    assert f"{images}/1.jpg: 40x30 pixels, 50x30 in its annotations" in lines[2]
    assert "color_ignore_orientation" in lines[3]


def test_annotations_of_stored_pixels_need_a_loader_of_stored_pixels(images):
    stored = [image(images, 6, 40, 30)]
    assert check_data([[Data(stored, color_type="color_ignore_orientation")]], {}) == []
    with pytest.raises(ValueError, match="40x30 pixels, 30x40 in its annotations"):
        check_data([[Data([image(images, 6, 30, 40)], color_type="color_ignore_orientation")]], {})


@pytest.mark.parametrize(
    ("options", "how"), [({}, "turned"), (dict(color_type="color_ignore_orientation"), "not turned")]
)
def test_upside_down_images_are_named(images, options, how):
    (warning,) = check_data([[Data([image(images, 3, 40, 30)], **options)]], {})
    assert (
        warning.startswith("1 images have an orientation tag") and f"(first: {images}/3.jpg): they are {how}" in warning
    )
    assert check_data([[Data([dict(img_path=f"{images}/3.jpg", gt_label=0)])]], {}) == []  # no place, no matter


def test_label_maps_are_as_large_as_images_are_read(images):
    def data(width, height):
        Image.fromarray(np.eye(height, width, dtype=np.uint8)).save(images / "map.png")
        return Maps([dict(img_path=f"{images}/6.jpg", seg_map_path=f"{images}/map.png")])

    assert check_data([[data(30, 40)]], {}) == []
    with pytest.raises(ValueError, match="1 label maps cannot be used.*\n.*map.png: 40x30 pixels, its image 30x40"):
        check_data([[data(40, 30)]], {})


def test_classes_of_label_maps_are_judged_for_training(images):
    maps = np.zeros((30, 40), dtype=np.uint8)
    maps[:, :10] = 255  # where somebody means foreground
    Image.fromarray(maps).save(images / "map.png")
    data = Maps([dict(img_path=f"{images}/1.jpg", seg_map_path=f"{images}/map.png")])
    with pytest.raises(ValueError, match="only pixels of 'ant', and 25.0% are ignored"):
        check_data([[data]], {})
    assert check_data([[data]], {}, training=False) == []


def test_classes_differ_between_data_sets(images):
    first, second = Data([]), Data([], classes=("bee", "ant"))
    with pytest.raises(
        ValueError, match=r"Data has the classes \(bee, ant\), the first data set \(Data\) \(ant, bee\)"
    ):
        check_data([[first], [second]], {})
    with pytest.raises(ValueError, match=r"num_classes is 3, but Data has 2"):
        check_data([[first]], ConfigDict(head=dict(num_classes=3)))


def test_labels_are_of_classes(images):
    good, bad = (dict(img_path=f"{images}/1.jpg", gt_label=label) for label in (1, 2))
    assert check_data([[Data([good])]], {}) == []
    with pytest.raises(ValueError, match="1.jpg has the label 2, but there are 2 classes, 0 to 1"):
        check_data([[Data([good, bad])]], {})


def test_images_that_the_loader_cannot_read_are_listed(images):
    Image.fromarray(np.full((4, 4), 1e6, np.float32)).save(images / "float.tif")
    with pytest.raises(ValueError, match="1 of 1 images cannot be read, remove or replace:\n.*float.tif: values from"):
        check_data([[Data([dict(img_path=f"{images}/float.tif")])]], {})
