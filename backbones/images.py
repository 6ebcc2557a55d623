"""Images as every check, loader and picture here sees them: found, read and turned into RGB in one way.

====================  =================================================================================================
what a file holds     what is read
====================  =================================================================================================
an orientation        the pixels, rotated and mirrored as it says (EXIF, TIFF)
several frames        the first one
black and white       0 and 255
grey                  the grey value in all three channels
transparency          the image over white
CMYK, palettes, ...   Pillow's conversion to RGB; colour profiles are not applied
16 bits a channel     the higher eight
32-bit integers       0 to 255 as they are; where an image has a higher value, the higher eight of 16 bits
floats                0 to 1 as 0 to 255; where an image has a higher value, as integers
anything else         refused: negative values, values above 65535, NaN
====================  =================================================================================================
"""

import contextlib
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

__all__ = [
    "ImageInfo",
    "find_bad_images",
    "inspect_image",
    "is_hidden",
    "list_images",
    "map_files",
    "read_image",
    "why_unreadable",
]

EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # need no look at their values
WHITE = (255, 255, 255)

R = TypeVar("R")


def is_hidden(name: str) -> bool:
    """Whether a file's or folder's name begins with a dot, as ``.ipynb_checkpoints`` does: never data."""
    return name.startswith(".")


def list_images(source: str | os.PathLike) -> list[str]:
    """The image files that ``source`` means: a file, a folder with all folders below it, or a glob pattern.

    Hidden files and folders are left out.

    Raises:
        FileNotFoundError: If nothing is there, or no image in it.
    """
    if os.path.isfile(source):
        return [str(source)]
    if os.path.isdir(source):
        inside = Path(source).rglob("*")
        found = [str(p) for p in inside if not any(map(is_hidden, p.relative_to(source).parts))]
    else:
        found = glob.glob(str(source), recursive=True)
    files = [file for file in found if os.path.splitext(file)[1].lower() in EXTENSIONS]
    if not files:
        raise FileNotFoundError(f"no image at {str(source)!r} (looked for {', '.join(sorted(EXTENSIONS))})")
    return sorted(files)


def read_image(source: str | os.PathLike | IO[bytes], orient: bool = True) -> Image.Image:
    """The image in RGB with eight bits a channel, by the table at the top of this module.

    Args:
        source: file, or its opened content.
        orient: rotate and mirror it as its orientation tag says.

    Raises:
        OSError: If it is no image, or a truncated one.
        ValueError: If its values have no meaning as colours.
    """
    with _open(source) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image) if orient else image)


@contextlib.contextmanager
def _open(source: str | os.PathLike | IO[bytes]) -> Iterator[Image.Image]:
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            # opened by its name, a TIFF would be mapped into memory, which scrambles rotated ones (seen with Pillow 13)
            source = stack.enter_context(open(source, "rb"))
        yield stack.enter_context(Image.open(source))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), image.mode))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= 65535):  # false for NaN
        raise ValueError(f"values from {lowest:g} to {highest:g}: colours are 0 to 1, 0 to 255 or 0 to 65535")
    if mode == "F" and highest <= 1:
        values = values * 255
    elif mode.startswith("I;") or highest > 255:
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    return values.round().astype(np.uint8)


class ImageInfo(NamedTuple):
    """What is known of an image that can be read."""

    stored: tuple[int, int]  # width and height in the file
    orientation: int  # EXIF's number: 1 as stored, 2 to 4 mirrored or upside down, 5 to 8 with sides exchanged

    def size(self, orient: bool = True) -> tuple[int, int]:
        """Width and height that :func:`read_image` gives."""
        return self.stored[::-1] if orient and self.orientation in (5, 6, 7, 8) else self.stored


def inspect_image(path: str | os.PathLike) -> ImageInfo:
    """Read an image to its end, as :func:`read_image` does but faster: JPEG is decoded at an eighth of its size.

    Raises:
        ValueError: If it cannot be read; the message says why, and not which.
    """
    try:
        if os.path.getsize(path) == 0:
            raise ValueError("empty file")
        with _open(path) as image:
            width, height = image.size
            image.draft("RGB", (1, 1))
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if image.mode not in EIGHT_BITS:
                _to_rgb(image)
            if image.format == "TIFF":  # Pillow orients it while it loads, and forgets the tag
                width, height = image.size
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ValueError(str(error).partition(" <")[0] or type(error).__name__) from error
    return ImageInfo((width, height), orientation)


def why_unreadable(path: str | os.PathLike, min_side: int = 1) -> str | None:
    """None if the image can be read and has ``min_side`` pixels in height and width, otherwise the reason."""
    try:
        width, height = inspect_image(path).size()
    except ValueError as error:
        return str(error)
    if min(width, height) < min_side:
        return f"{width}x{height} pixels; at least {min_side}x{min_side} are needed"
    return None


def map_files(function: Callable[[str], R], files: Iterable[str], progress: str | None = None) -> dict[str, R]:
    """What ``function`` returns for each file, by several threads (Pillow decodes without Python's lock).

    Args:
        function: of one file.
        files: their names.
        progress: label of a progress bar, which appears where it takes more than two seconds.
    """
    files = list(files)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = pool.map(function, files)
        if progress:
            from tqdm import tqdm

            results = tqdm(results, total=len(files), desc=progress, unit="file", delay=2)
        return dict(zip(files, results))


def find_bad_images(files: Iterable[str], min_side: int = 1, progress: str | None = None) -> dict[str, str]:
    """Those of ``files`` that cannot be read, with the reason. ``progress`` labels a progress bar."""
    reasons = map_files(lambda file: why_unreadable(file, min_side), files, progress)
    return {file: reason for file, reason in reasons.items() if reason}
