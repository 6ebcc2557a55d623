"""int8 files beside the float ones: agreement with the model, size, and time, as the table in docs/export.md.

    backbones export MODEL --format onnx openvino --out FOLDER
    backbones export MODEL --format onnx openvino --out FOLDER --int8 IMAGES
    python tools/int8_table.py FOLDER

Each file runs in its own runtime on random images of the size that it was calibrated at; float and int8 take turns, and
the best of several runs counts.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from backbones.deploy import FORMATS, Runtime, load_export

SUFFIXES = {runtime.suffix: format for format, runtime in FORMATS.items()}


def file_size(path: Path) -> float:
    """MB of a file and of the weights beside it."""
    beside = [path, path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(path.name + ".data")]
    return sum(file.stat().st_size for file in beside if file.is_file()) / 1e6


def best_times(runtimes: Sequence[Runtime], x: torch.Tensor, seconds: float) -> list[float]:
    """Milliseconds of each, which take turns."""
    best = [float("inf")] * len(runtimes)
    end, runs = time.perf_counter() + seconds, 0
    while runs < 3 or time.perf_counter() < end:
        for i, runtime in enumerate(runtimes):
            start = time.perf_counter()
            runtime(x)
            best[i] = min(best[i], 1000 * (time.perf_counter() - start))
        runs += 1
    return best


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with NAME.onnx and NAME_int8.onnx, and so on")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4, help="of runs for each pair of files and batch")
    args = parser.parse_args(argv)

    torch.set_num_threads(args.threads)
    files = [f for f in sorted(args.folder.glob("*_int8.*")) if f.suffix in SUFFIXES]
    header = ["model", "format", "ranges", "error", "same top class", "MB", *(f"ms, batch {n}" for n in args.batches)]
    rows = [header, ["---"] * len(header)]
    for file in files:
        twin = file.with_stem(file.stem.removesuffix("_int8"))
        runtimes = [load_export(path, args.threads) for path in (twin, file)]
        stated = runtimes[1].metadata["int8"]
        size, error = next(iter(stated["relative_error"].items()))
        top1 = stated["top1_agreement"][size]
        cells = [twin.stem, SUFFIXES[file.suffix], stated["ranges"], f"{error:.1%}", f"{top1:.0%}"]
        cells.append(f"{file_size(twin):.1f} → {file_size(file):.1f}")
        height, width = map(int, size.split(" x ")[1:])
        for batch in args.batches:
            before, after = best_times(runtimes, torch.randn(batch, 3, height, width), args.seconds)
            cells.append(f"{before:.1f} → {after:.1f}")
        rows.append(cells)
    print(*("| " + " | ".join(row) + " |" for row in rows), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
