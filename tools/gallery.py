"""Draws the pictures of docs/look.md with ``backbones look``.

python tools/gallery.py

Photographs are scikit-image's, digits scikit-learn's; random weights are those of seed 0.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.cli import look

FOLDER = Path(__file__).resolve().parents[1] / "docs/gallery"
DIGITS, PHOTOGRAPHS = ("3", "5", "8", "0"), ("astronaut", "chelsea")

# Model, images, options, and which of the pictures is kept as what.
PICTURES: list[tuple[str, tuple[str, ...], list[str], dict[str, str]]] = [
    (
        "test_van.digits",
        DIGITS,
        ["--only", "cam", "gates", "features"],
        {
            "cam": "van-digits-cam",
            "gates-0": "van-digits-gates",
            "features": "van-digits-features",
        },
    ),
    (
        "litv2_s=random",
        PHOTOGRAPHS,
        ["--only", "attention", "receptive", "--layers", r"stages\.2\.blocks\.0", "--pixel", "0.4", "0.4"],
        {
            "attention-00-*": "litv2-random-hifi",
            "attention-01-*": "litv2-random-lofi",
            "receptive": "litv2-random-receptive",
        },
    ),
    (
        "halonet_h0_256=random",
        PHOTOGRAPHS[:1],
        ["--only", "attention", "--layers", r"stages\.0\.blocks\.0", "--pixel", "0.4", "0.4"],
        {"attention-00-*": "halonet-random-attention"},
    ),
    (
        "nat_mini=random",
        PHOTOGRAPHS[:1],
        ["--only", "attention", "--layers", r"stages\.1\.blocks\.0", "--pixel", "0.4", "0.4"],
        {"attention-00-*": "nat-random-attention"},
    ),
    (
        "illama_tiny=random",
        PHOTOGRAPHS[:1],
        ["--only", "attention", "--layers", r"blocks\.0\.", "--pixel", "0.4", "0.6"],
        {"attention-00-*": "illama-random-attention"},
    ),
    (
        "stvit_small=random",
        PHOTOGRAPHS,
        ["--only", "regions", "--layers", r"stages\.0\.blocks\.0"],
        {"regions-*": "stvit-random-regions"},
    ),
    (
        "sgformer_s=random",
        PHOTOGRAPHS[:1],
        ["--only", "groups", "--layers", r"stages\.0\.blocks\.1"],
        {"groups-*": "sgformer-random-groups"},
    ),
    (
        "davit_tiny_window7_224=random",
        PHOTOGRAPHS[:1],
        ["--only", "channels", "--layers", r"stages\.1\."],
        {"channels-*": "davit-random-channels"},
    ),
]


def write_images(folder: Path) -> None:
    """The photographs and digits as files."""
    import skimage.data
    from sklearn.datasets import load_digits

    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    digits = load_digits()
    for name in DIGITS:
        scan = digits.images[int(np.flatnonzero(digits.target == int(name))[0])]
        Image.fromarray((scan * (255 / 16)).round().astype(np.uint8)).save(folder / f"{name}.png")


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch)
        write_images(images)
        for i, (model, names, options, kept) in enumerate(PICTURES):
            out = images / str(i)
            look.main([model, "--image", *(str(images / f"{n}.png") for n in names), "--out", str(out), *options])
            for pattern, name in kept.items():
                with Image.open(sorted(out.glob(f"{pattern}.png"))[0]) as picture:
                    picture.convert("RGB").save(FOLDER / f"{name}.webp", quality=80, method=6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
