"""Finding images, and finding out which cannot be read."""

import glob
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

__all__ = ["find_bad_images", "list_images", "why_unreadable"]

EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def list_images(source: str | os.PathLike) -> list[str]:
    """The image files that ``source`` means: a file, a folder with all folders below it, or a glob pattern.

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    if os.path.isdir(source):
        files = [str(p) for p in Path(source).rglob("*") if p.suffix.lower() in EXTENSIONS]
    elif os.path.isfile(source):
        return [str(source)]
    else:
        files = [f for f in glob.glob(str(source), recursive=True) if os.path.splitext(f)[1].lower() in EXTENSIONS]
    if not files:
        raise FileNotFoundError(f"no image at {str(source)!r} (looked for {', '.join(sorted(EXTENSIONS))})")
    return sorted(files)


def why_unreadable(path: str | os.PathLike, min_side: int = 1) -> str | None:
    """Read the image to its end; None if that works, otherwise the reason. JPEG is decoded at an eighth of its size."""
    try:
        if os.path.getsize(path) == 0:
            return "empty file"
        with Image.open(path) as image:
            if min(image.size) < min_side:
                return f"{image.width}x{image.height} pixels; at least {min_side}x{min_side} are needed"
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        return str(error).replace(f" {str(path)!r}", "") or type(error).__name__
    return None


def find_bad_images(files: Iterable[str], min_side: int = 1, progress: str | None = None) -> dict[str, str]:
    """Those of ``files`` that cannot be read, with the reason. ``progress`` labels a progress bar."""
    files = list(files)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        reasons = pool.map(lambda file: why_unreadable(file, min_side), files)
        if progress and len(files) > 10_000:  # fewer are read before a bar is of use
            from tqdm import tqdm

            reasons = tqdm(reasons, total=len(files), desc=progress, unit="image")
        return {file: reason for file, reason in zip(files, reasons) if reason}
