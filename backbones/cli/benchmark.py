"""Speed and memory of models, by several runtimes, beside a baseline.

    backbones benchmark van_b0 litv2_s --batch-size 8 --threads 2
    backbones benchmark van_b2 --runtime eager optimized onnxruntime openvino --batch-size 1 8 --mode inference
    backbones benchmark litv2_s --img-size 224 320 512 --mode inference --plot cost.png
    python -m backbones benchmark van_b2 authors_code.van:van_base --dtype bfloat16 --layout channels_last

What is compared takes turns in one process: the model by every runtime, the baseline by every runtime, and a product of
matrices. A shared machine may drift by a fifth within minutes, so a ratio is the median over pairs of turns that
followed each other, not the quotient of two medians; milliseconds and images/s carry the drift. "% of best" is what a
model computes in a second (two operations a multiply-accumulate, three times as many in a training step), of what the
best product of 6272 x 768 x 768 reaches there.

Peak memory is the high-water mark of a process of its own (it includes the libraries, which the CSV lists apart as
`import_mib`, and what `optimized` and `compile` need to prepare), or that of PyTorch's allocator on a GPU.

Rows are printed and written as they come. With one image size --plot draws accuracy, as published, against the latency
of the smallest batch; with several, cost against size.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

import backbones
from backbones.cli.benchmarking.measuring import DTYPES, MODES, PRODUCT, Settings
from backbones.cli.benchmarking.results import Result, Table, earlier_rows, write_csv
from backbones.cli.benchmarking.running import Benchmark
from backbones.cli.benchmarking.runtimes import RUNTIMES, check_runtime
from backbones.cli.common import (
    check_model,
    device,
    number_in,
    output_file,
    output_folder,
    parse_img_size,
    positive_int,
)


def cpu_name() -> str:
    """The CPU's name as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(
    settings: Sequence[Settings], baseline: str | None, runtimes: Sequence[str] = ("eager",)
) -> dict[str, str]:
    """Everything that a reader needs beside the numbers."""
    packages = ["timm", *(package for name in runtimes for package in RUNTIMES[name].packages)]
    versions = [f"{package} {version(package)}" for package in dict.fromkeys(packages)]
    one = settings[0]
    cuda = torch.device(one.device).type == "cuda"
    return {
        "processor": cpu_name(),
        "device": torch.cuda.get_device_name(one.device) if cuda else one.device,
        "versions": ", ".join([f"backbones {backbones.__version__}", f"torch {torch.__version__}", *versions]),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "batch": ", ".join(dict.fromkeys(str(s.batch_size) for s in settings)),
        "threads": ", ".join(dict.fromkeys(str(s.threads or torch.get_num_threads()) for s in settings)),
        "dtype": one.dtype + ("" if one.dtype == "float32" else " (autocast; of optimized, the whole model)"),
        "layout": one.layout,
        "optimizer": one.optimizer,
        "runs": f"{one.runs} of at least {one.min_time} s, medians",
        "baseline": f"{baseline}, in turns with each model" if baseline else "none",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backbones benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name known to timm, or module:callable")
    parser.add_argument(
        "--img-size",
        type=parse_img_size,
        nargs="+",
        default=[None],
        metavar="N|HxW",
        help="default: each model's own (the baseline's, too)",
    )
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, nargs="+", default=["eager"], help="what runs the models; the first is compared"
    )
    parser.add_argument("--baseline", default="resnet50", metavar="MODEL", help='default: resnet50; "none" for none')
    parser.add_argument("--batch-size", type=positive_int, nargs="+", default=[Settings.batch_size], metavar="N")
    parser.add_argument(
        "--threads", type=positive_int, nargs="+", default=[None], metavar="N", help="default: PyTorch's choice"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=Settings.dtype, help="bfloat16 means autocast, for optimized the whole model"
    )
    parser.add_argument("--device", type=device, default=Settings.device)
    parser.add_argument("--layout", choices=["contiguous", "channels_last"], default=Settings.layout)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default=Settings.optimizer)
    parser.add_argument("--runs", type=positive_int, default=Settings.runs, help="turns that each has")
    parser.add_argument("--min-time", type=number_in(0), default=Settings.min_time, help="least seconds of a turn")
    parser.add_argument("--no-memory", action="store_true", help="measure speed alone, which takes fewer processes")
    parser.add_argument(
        "--exports",
        type=output_folder,
        metavar="DIR",
        help="keep files for other runtimes there, and use those that are there",
    )
    parser.add_argument(
        "--csv", type=output_file, metavar="FILE", help="rows in the columns of timm's results, and more"
    )
    parser.add_argument("--plot", type=output_file, metavar="FILE.png")
    return parser


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace, baseline: str | None) -> None:
    """Ends with one sentence if something cannot be measured as asked."""
    try:
        for name in filter(None, [*args.models, baseline]):
            check_model(name)
        for name in args.runtime:
            check_runtime(name, args.dtype, args.device)
    except ValueError as error:
        parser.error(str(error))
    if args.mode == "train" and (unable := [name for name in args.runtime if not RUNTIMES[name].trains]):
        parser.error(f"{' and '.join(unable)} cannot train: leave out --mode train")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'efficient-backbones[tools]'")
    if args.plot and args.plot.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--plot {args.plot}: name a file that ends in .png, .pdf or .svg")
    if args.plot and len(args.img_size) == 1:
        from backbones.cli.benchmarking.plots import full_name, published_accuracies

        if not {full_name(name) for name in args.models} & {name for name, _ in published_accuracies()}:
            parser.error(
                "--plot draws accuracy against latency, and no accuracy on ImageNet-1k is known of these models: give "
                "several sizes with --img-size to draw cost against size"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if a model failed."""
    parser = _parser()
    args = parser.parse_args(argv)
    baseline = None if args.baseline == "none" else args.baseline
    _check(parser, args, baseline)
    modes = MODES if args.mode == "both" else (args.mode,)
    if not any(RUNTIMES[name].trains for name in args.runtime):
        modes = ("inference",)
    settings = [
        replace(
            Settings(dtype=args.dtype, device=args.device, layout=args.layout, optimizer=args.optimizer),
            batch_size=batch_size,
            threads=threads,
            runs=args.runs,
            min_time=args.min_time,
        )
        for threads, batch_size in itertools.product(args.threads, args.batch_size)
    ]
    about = describe(settings, baseline, args.runtime)
    try:
        earlier = earlier_rows(args.csv, about) if args.csv else []
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(f"{key + ':':<11}{value}" for key, value in about.items()), end="\n\n", flush=True)
    if importlib.util.find_spec("fvcore") is None:
        print("multiply-accumulates are not counted without fvcore: pip install 'efficient-backbones[tools]'\n")

    results: list[Result] = []
    failed = False
    runtimes = list(dict.fromkeys(args.runtime))
    table = Table(
        modes, [*args.models, *filter(None, [baseline])], baseline, runtimes[0] if len(runtimes) > 1 else None
    )
    print(table.header, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.exports or temporary
        benchmark = Benchmark(runtimes, modes, settings, str(folder), baseline, not args.no_memory, _progress)
        for img_size in args.img_size:
            for result in benchmark.run(args.models, img_size):
                results.append(result)
                _progress("")
                print(table.row(result), flush=True)
                if args.csv:
                    failed |= not _wrote(args.csv, lambda: write_csv(args.csv, results, about, earlier))
    if speeds := [r.product_gflops for r in results if r.product_gflops]:
        print(f"\nbest product of {' x '.join(map(str, PRODUCT))}: {median(speeds):.0f} GFLOP/s, median over the rows")
    if args.plot:
        from backbones.cli.benchmarking import plots

        def draw() -> None:
            if len(args.img_size) > 1:
                plots.plot_sizes(args.plot, results, modes, about)
            elif left_out := plots.plot_accuracy(args.plot, results, about):
                print(f"not in {args.plot}, for want of a published accuracy or of a latency: {', '.join(left_out)}")

        failed |= not _wrote(args.plot, draw)
    return 1 if failed or any(r.errors for r in results) else 0


def _wrote(path: Path, write: Callable[[], None]) -> bool:
    """Whether a file could be written; what is measured goes on, and is printed."""
    try:
        write()
    except OSError as error:
        print(f"error: cannot write {path} ({error.strerror})", file=sys.stderr)
        return False
    return True


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
