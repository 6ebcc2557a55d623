"""Finding images and naming the unreadable ones."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from backbones.images import find_bad_images, inspect_image, list_images, read_image, why_unreadable


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.JPG", "c.webp"):
        noise = Image.effect_noise((64, 48), 50).convert("RGB")
        noise.save(tmp_path / name, format={"JPG": "JPEG"}.get(name.split(".")[1], name.split(".")[1].upper()))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deep/.ipynb_checkpoints").mkdir()
    for hidden in (".d.png", "deep/.ipynb_checkpoints/b-checkpoint.jpg"):
        Image.new("L", (8, 8)).save(tmp_path / hidden)
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


# What pixels a file means ---------------------------------------------------------------------------------------------

GREY = [[0, 51, 102], [153, 204, 255]]
TURNED = [[153, 0], [204, 51], [255, 102]]  # a quarter to the right


def grey(values=GREY) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8))


def tagged(orientation: int) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return dict(exif=exif)


def transparent(mode: str) -> Image.Image:
    """Half transparent black beside opaque grey."""
    pixels = [(0, 128), (200, 255)] if mode == "LA" else [(0, 0, 0, 128), (200, 200, 200, 255)]
    image = Image.new(mode, (2, 1))
    image.putdata(pixels)
    return image


def palette(**info) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putdata([0, 1])
    image.info.update(info)
    return image


def animated() -> dict:
    return dict(save_all=True, append_images=[grey([[9] * 3] * 2)])


def array(values, dtype) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


# ending of the file, what is written, options of writing, and what is read: grey values or colours
FILES = [
    ("png", lambda: array([[True, False]], bool), {}, [[255, 0]]),
    ("png", grey, {}, GREY),
    ("png", lambda: transparent("LA"), {}, [[127, 200]]),
    ("png", lambda: transparent("RGBA"), {}, [[127, 200]]),
    ("png", palette, {}, [[(0, 0, 0), (200, 100, 50)]]),
    ("png", lambda: palette(transparency=0), {}, [[(255, 255, 255), (200, 100, 50)]]),
    ("png", grey, dict(transparency=51), [[0, 255, 102], [153, 204, 255]]),
    ("png", lambda: grey().convert("RGB"), dict(transparency=(51, 51, 51)), [[0, 255, 102], [153, 204, 255]]),
    ("tif", lambda: Image.new("CMYK", (1, 1), (255, 0, 0, 0)), {}, [[(0, 255, 255)]]),
    ("tif", lambda: Image.new("CMYK", (1, 1), (0, 0, 0, 155)), {}, [[100]]),
    # 16 bits
    ("png", lambda: array([[0, 255, 256, 65535]], np.uint16), {}, [[0, 0, 1, 255]]),
    ("tif", lambda: array([[0, 255, 256, 65535]], np.uint16), {}, [[0, 0, 1, 255]]),
    ("tif", lambda: array([[0, 255, 256, 65535]], ">u2"), {}, [[0, 0, 1, 255]]),
    ("png", lambda: array([[0, 51]], np.uint16), {}, [[0, 0]]),
    # 32 bits
    ("tif", lambda: array(GREY, np.int32), {}, GREY),
    ("tif", lambda: array([[0, 255, 256, 65535]], np.int32), {}, [[0, 0, 1, 255]]),
    ("tif", lambda: array([[0, 0.2, 1]], np.float32), {}, [[0, 51, 255]]),
    ("tif", lambda: array([[0, 0.2, 1.2, 254.6]], np.float32), {}, [[0, 0, 1, 255]]),
    ("tif", lambda: array([[0, 256, 65535]], np.float32), {}, [[0, 1, 255]]),
    # the first frame
    *((kind, grey, animated(), GREY) for kind in ("gif", "png", "tif")),
    ("webp", grey, dict(animated(), lossless=True), GREY),
    # orientation
    *((kind, grey, tagged(6), TURNED) for kind in ("png", "tif")),
    ("webp", grey, dict(tagged(6), lossless=True), TURNED),
    ("png", grey, tagged(1), GREY),
    ("png", grey, tagged(3), [[255, 204, 153], [102, 51, 0]]),
    ("tif", lambda: array(np.array(GREY) * 257, np.uint16), tagged(6), TURNED),
]


@pytest.mark.parametrize(("ending", "make", "options", "expected"), FILES)
def test_files_and_their_pixels(tmp_path, ending, make, options, expected):
    path = tmp_path / f"a.{ending}"
    make().save(path, **options)
    image = read_image(path)
    expected = np.array(expected, np.uint8)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)
    with open(path, "rb") as file:
        assert read_image(file) == image
    assert inspect_image(path).size() == image.size and why_unreadable(path) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_photograph(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    photograph = Image.effect_noise((64, 48), 50).convert("RGB")
    photograph.save(path, **tagged(orientation))
    with Image.open(path) as stored:
        stored.load()
        assert read_image(path) == ImageOps.exif_transpose(stored).convert("RGB")
        np.testing.assert_array_equal(read_image(path, orient=False), stored)
    info = inspect_image(path)
    assert info.orientation == orientation and info.size() == read_image(path).size
    assert info.size(orient=False) == (64, 48)


@pytest.mark.parametrize("values", [[[-1, 3]], [[0, 65536]], [[0, np.nan]], [[0, np.inf]]])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_that_are_no_colours_are_refused_by_check_and_reader(tmp_path, values, dtype):
    path = tmp_path / "a.tif"
    if dtype == np.int32 and not np.isfinite(values).all():
        values = [[-5, 70000]]
    array(values, dtype).save(path)
    with pytest.raises(ValueError, match="values from .* to .*: colours are 0 to 1, 0 to 255 or 0 to 65535"):
        read_image(path)
    assert "colours are" in why_unreadable(path)
