"""Draws the pictures of docs/look.md and of the families' pages with ``backbones look``.

    python tools/gallery.py            # all of them
    python tools/gallery.py van stvit  # those of some families

Photographs are scikit-image's, digits scikit-learn's; random weights are those of seed 0. A name is that of the family,
of the weights, and of what is shown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.cli import look

FOLDER = Path(__file__).resolve().parents[1] / "docs/gallery"
DIGITS, PHOTOGRAPHS = ("3", "5", "8", "0"), ("astronaut", "chelsea")

# Model, images (none: noise), options, and which of the pictures is kept as what.
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
    (
        "attnet_xs=random",
        PHOTOGRAPHS,
        ["--only", "kernels", "--layers", r"stages\.2\.blocks\.0"],
        {"kernels-*": "attnet-random-kernels"},
    ),
    (
        "transnext_micro=random",
        PHOTOGRAPHS[:1],
        ["--only", "attention", "--layers", r"stages\.1\.blocks\.0", "--pixel", "0.4", "0.4"],
        {"attention-00-*": "transnext-random-attention"},
    ),
    (
        "test_ptdit=random",
        (),
        ["--only", "attention", "--layers", r"blocks\.0", "--pixel", "0.6", "0.4"],
        {"attention-00-*": "ptdit-random-window", "attention-03-*": "ptdit-random-proxies"},
    ),
]


# The page that docs/look.md links to.
PAGE = ("stvit_small=random", PHOTOGRAPHS[:1], ["--only", "click", "--layers", r"stages\.[0123]\.blocks\.0"])


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


def main(argv: Sequence[str] | None = None) -> int:
    families = sorted({name.partition("-")[0] for *_, kept in PICTURES for name in kept.values()})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(families))
    wanted = parser.parse_args(argv).families
    if unknown := set(wanted) - set(families):
        parser.error(f"no pictures of {', '.join(sorted(unknown))}; there are {', '.join(families)}")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch)
        write_images(images)
        for i, (model, names, options, kept) in enumerate(PICTURES):
            if wanted and next(iter(kept.values())).partition("-")[0] not in wanted:
                continue
            out = images / str(i)
            look.main([model, "--out", str(out), *options, "--image", *(str(images / f"{n}.png") for n in names)])
            for pattern, name in kept.items():
                with Image.open(sorted(out.glob(f"{pattern}.png"))[0]) as picture:
                    picture.convert("RGB").save(FOLDER / f"{name}.webp", quality=80, method=6)
        if not wanted or "stvit" in wanted:
            model, names, options = PAGE
            look.main(
                [model, "--image", *(str(images / f"{n}.png") for n in names), "--out", str(FOLDER / "click"), *options]
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
