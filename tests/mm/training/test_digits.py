"""The digits folder: complete or absent, always the same."""

from collections import Counter

import pytest
from PIL import Image

from backbones.mm.training import digits

pytestmark = pytest.mark.mm


def test_split_is_fixed_and_stratified(tmp_path):
    root = digits.write_digits(tmp_path / "digits")
    train, val = ({p.name: p for p in (root / split).rglob("*.png")} for split in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    assert not train.keys() & val.keys()
    counts = Counter(p.parent.name for p in val.values())
    assert sorted(counts) == list("0123456789") and set(counts.values()) <= {35, 36, 37}
    # the first held-out scans, so that numbers measured on different machines are of the same images
    assert sorted(val)[:4] == ["0021.png", "0024.png", "0028.png", "0034.png"]
    with Image.open(next(iter(val.values()))) as image:
        assert (image.size, image.mode) == ((8, 8), "L")


def test_existing_folder_is_left_alone(tmp_path):
    root = digits.write_digits(tmp_path / "digits")
    marker = root / "train" / "0" / "mine.txt"
    marker.write_text("x")
    digits.write_digits(root)
    assert marker.exists()


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        digits.write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []
