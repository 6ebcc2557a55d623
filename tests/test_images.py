"""Finding images and naming the unreadable ones."""

import io

import pytest
from PIL import Image

from backbones.images import find_bad_images, list_images, why_unreadable


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.JPG", "c.webp"):
        noise = Image.effect_noise((64, 48), 50).convert("RGB")
        noise.save(tmp_path / name, format={"JPG": "JPEG"}.get(name.split(".")[1], name.split(".")[1].upper()))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_file_folder_and_pattern(folder):
    names = lambda files: sorted(f.rpartition("/")[2] for f in files)  # noqa: E731
    assert names(list_images(folder)) == ["a.png", "b.JPG", "c.webp"]
    assert names(list_images(folder / "a.png")) == ["a.png"]
    assert names(list_images(f"{folder}/**/*.JPG")) == ["b.JPG"]
    for nothing in (folder / "absent", f"{folder}/*.gif", f"{folder}/*.txt"):
        with pytest.raises(FileNotFoundError, match="no image"):
            list_images(nothing)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_truncated_images_are_found(tmp_path, kind, share):
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(buffer, format=kind)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(buffer.getvalue())
    assert why_unreadable(path) is None
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    assert why_unreadable(path) if share else why_unreadable(path) == "empty file"


def test_bad_images_come_with_their_reason(folder):
    (folder / "text.png").write_text("hello")
    Image.new("L", (20, 40)).save(folder / "small.png")
    bad = find_bad_images(list_images(folder), min_side=32)
    assert {f.rpartition("/")[2]: reason.split()[0] for f, reason in bad.items()} == {
        "small.png": "20x40",
        "text.png": "cannot",
    }
