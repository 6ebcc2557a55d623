"""Image folders: what is wrong with one is said before anything is computed."""

import numpy as np
import pytest
from PIL import Image

from backbones.evaluation.folder import open_folder, split_at_random


def write(folder, count=3):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(folder / f"{i}.png")


def test_split_by_folders(tmp_path):
    for split, classes in (("train", "ab"), ("val", "b"), (".cache", "c")):
        for name in classes:
            write(tmp_path / split / name)
    train, val = open_folder(tmp_path)
    assert train.classes == val.classes == ["a", "b"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and val.labels.tolist() == [1, 1, 1]
    assert train.digest() != val.digest() == val.digest()


def test_split_at_random_is_fixed_and_takes_of_every_class(tmp_path):
    write(tmp_path / "a", 10)
    write(tmp_path / "b", 2)
    train, val = open_folder(tmp_path)
    assert np.bincount(train.labels).tolist() == [8, 1] and np.bincount(val.labels).tolist() == [2, 1]
    assert not set(train.files) & set(val.files) and open_folder(tmp_path)[1].files == val.files


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(ValueError, match="class number 1 has one image"):
        split_at_random(np.array([0, 0, 1]))


def test_one_class(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(ValueError, match="has one class, 'a': there is nothing to tell apart"):
        open_folder(tmp_path)
    assert open_folder(tmp_path, min_classes=1)[0].classes == ["a"]


def test_no_folder_no_image(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folder of images in .* expected .*/CLASS/IMAGE"):
        open_folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no image at .*/a'"):
        open_folder(tmp_path)


def test_broken_images_are_named(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    (tmp_path / "b" / "2.png").write_bytes((tmp_path / "b" / "0.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2 images cannot be read[^$]*a/1.png: empty file\n[^$]*b/2.png: "):
        open_folder(tmp_path)


def test_classes_that_were_not_trained_on(tmp_path):
    for split, classes in (("train", "ab"), ("val", "abc")):
        for name in classes:
            write(tmp_path / split / name)
    with pytest.raises(ValueError, match=r"has classes that .* lacks: \['c'\]"):
        open_folder(tmp_path)
    assert open_folder(tmp_path, min_classes=1)[1].classes == ["a", "b", "c"]
