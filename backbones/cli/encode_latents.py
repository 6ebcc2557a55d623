"""Encode a folder of images into latents, which train a generator without decoding images again and again.

    backbones encode-latents data/imagenet --autoencoder stabilityai/sd-vae-ft-ema --out data/imagenet_latents

Reads <root>/{train,val}/<class>/*, scales the shorter side to --size pixels and crops the middle. Writes the mean and
the standard deviation of each latent, and those of the mirrored image for training, to <out>/{train,val}/<class>.npy:
(images, 2 * channels, height, width) in float16. A class that is there already is left alone, so that a run that was
stopped goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.cli.common import device, output_folder, positive_int
from backbones.diffusion import Autoencoder
from backbones.files import whole_file
from backbones.images import find_bad_images, is_hidden, list_images, read_image

SPLITS = ("train", "val")


def find_classes(root: Path) -> dict[str, dict[str, list[str]]]:
    """Files of each class of each split.

    Raises:
        ValueError: a split is missing, the two have other classes, or an image cannot be read.
    """
    files: dict[str, dict[str, list[str]]] = {}
    for split in SPLITS:
        folders = sorted(p for p in (root / split).glob("*") if p.is_dir() and not is_hidden(p.name))
        if not folders:
            raise ValueError(f"no classes in {str(root / split)!r}: images are expected in {root}/{split}/<class>/")
        files[split] = {folder.name: list_images(folder) for folder in folders}
    if differing := files["train"].keys() ^ files["val"].keys():
        raise ValueError(f"train and val must have the same classes; only one of them has {sorted(differing)[:5]}")
    every = [file for split in files.values() for part in split.values() for file in part]
    if bad := find_bad_images(every, progress="checking images"):
        lines = [f"  {file}: {reason}" for file, reason in list(bad.items())[:50]]
        raise ValueError("\n".join([f"{len(bad)} of {len(every)} images cannot be read, remove or replace:", *lines]))
    return files


def read_batches(files: Sequence[str], size: int, batch_size: int) -> Iterator[Tensor]:
    """Pixels (B, 3, size, size) in [-1, 1]."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    transform = Compose(
        [Resize(size, InterpolationMode.BICUBIC), CenterCrop(size), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]
    )
    for start in range(0, len(files), batch_size):
        yield torch.stack([transform(read_image(file)) for file in files[start : start + batch_size]])


def encode(autoencoder: Autoencoder, pixels: Tensor) -> np.ndarray:
    """Mean and standard deviation of the latents, one above the other, in float16."""
    return torch.cat(autoencoder.encode(pixels), dim=1).half().cpu().numpy()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="backbones encode-latents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with train/<class>/ and val/<class>/")
    parser.add_argument("--autoencoder", required=True, help="folder or hub repository of a diffusers autoencoder")
    parser.add_argument("--out", type=output_folder, required=True)
    parser.add_argument("--size", type=positive_int, default=256, help="side in pixels")
    parser.add_argument("--batch-size", type=positive_int, default=16)
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    try:
        autoencoder = Autoencoder(args.autoencoder, args.device)
        if args.size % autoencoder.stride:
            raise ValueError(
                f"--size {args.size}: must be a multiple of the autoencoder's stride, {autoencoder.stride}"
            )
        files = find_classes(args.root)
        about = {"autoencoder": args.autoencoder, "size": args.size, "classes": list(files["train"])}
        done = args.out / "latents.json"
        if done.exists() and json.loads(done.read_text()) != about:
            raise ValueError(f"{args.out} has latents of another size, autoencoder or classes: choose another --out")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")

    from tqdm import tqdm

    args.out.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(about, indent=1) + "\n")
    total = sum(len(part) for split in files.values() for part in split.values())
    with tqdm(total=total, unit="image", disable=None) as bar:
        for split in SPLITS:
            (args.out / split).mkdir(exist_ok=True)
            for name, images in files[split].items():
                path = args.out / split / f"{name}.npy"
                if not path.exists():
                    parts = []
                    for pixels in read_batches(images, args.size, args.batch_size):
                        parts.append(encode(autoencoder, pixels))
                        if split == "train":
                            parts.append(encode(autoencoder, pixels.flip(-1)))
                    with whole_file(path) as partial, partial.open("wb") as file:
                        np.save(file, np.concatenate(parts))
                bar.update(len(images))
    print(args.out)


if __name__ == "__main__":
    main()
