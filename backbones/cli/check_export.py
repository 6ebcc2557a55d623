"""Run an exported file on images, with its own runtime and preprocessing, beside the model that it was made from.

backbones check-export exported/van_b0.in1k.onnx --images photos/
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from backbones.cli.common import format_table
from backbones.cli.export import Source, add_source_arguments, load_source
from backbones.deploy import Preprocessing, Runtime, load_export
from backbones.deploy.metadata import weights_hash
from backbones.images import list_images, read_image
from backbones.weights import DownloadError


def find_source(runtime: Runtime, args: argparse.Namespace) -> Source:
    """The model that a file was made from.

    Raises:
        ValueError: If its weights are others.
    """
    origin = runtime.metadata["source"]
    if args.source:
        origin = {"source": args.source, "model": args.model, "config": args.config, "random": args.random_weights}
    found = load_source(**origin)
    if weights_hash(found.model) != runtime.metadata["weights_sha256"]:
        raise ValueError(f"it was made from other weights than those of {origin['source']}: name them with --source")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones check-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="what backbones export wrote: .onnx, .xml or .pt2")
    parser.add_argument("--images", required=True, help="image file, folder, or glob pattern in quotes")
    parser.add_argument("--topk", type=int, default=3, help="classes of an image")
    parser.add_argument("--source", help="model or checkpoint to compare with; default: as the file says")
    add_source_arguments(parser)
    args = parser.parse_args(argv)

    try:
        files = list_images(args.images)
        runtime = load_export(args.file)
        if "source" not in runtime.metadata:
            raise ValueError("it was not written by `backbones export`: it says nothing of its model")
        found = find_source(runtime, args)
        rows, agreed = compare(runtime, found, files, args.topk)
    except (ValueError, OSError, DownloadError) as error:
        sys.exit(f"error: cannot check {args.file}: {error}")
    print(format_table(["image", "the file says", "the model says"], rows))
    print(f"\n{agreed} of {len(files)} images have the same top class; largest difference when it was exported:")
    print("\n".join(f"  {size}: {value:.1e} of the spread" for size, value in runtime.metadata["differences"].items()))
    return 0 if agreed == len(files) else 1


def compare(runtime: Runtime, found: Source, files: Sequence[str], topk: int) -> tuple[list[list[str]], int]:
    """Rows of a table, an image each, and how many have the same top class."""
    metadata = runtime.metadata
    preprocessing = Preprocessing.of_config(metadata)
    transforms = [preprocessing.transform(rescale) for rescale in (metadata["input"] != "pixels from 0 to 255", True)]
    calls = [lambda x: runtime(x)[0], found.model]
    rows, agreed = [], 0
    for file in files:
        image = read_image(file)
        cells, tops = [], []
        for transform, call in zip(transforms, calls, strict=True):
            with torch.inference_mode():
                scores = call(transform(image)[None]).float().softmax(-1)[0]
            values, indices = scores.topk(min(topk, len(scores)))
            tops.append(int(indices[0]))
            pairs = zip(indices.tolist(), values.tolist(), strict=True)
            cells.append(", ".join(f"{metadata['classes'][i]} {p:.1%}" for i, p in pairs))
        agreed += tops[0] == tops[1]
        rows.append([file, *cells])
    return rows, agreed


if __name__ == "__main__":
    sys.exit(main())
