"""Speed and memory of models, beside a baseline.

    backbones benchmark van_b0 litv2_s --batch-size 8 --threads 2
    backbones benchmark litv2_s --img-size 224 320 512 --mode inference --plot cost.png
    python -m backbones benchmark van_b2 authors_code.van:van_base --dtype bfloat16 --layout channels_last

Each model gets fresh processes: one a mode for its peak memory, and one for its speed, in which the model and the
baseline take turns. A shared machine may drift by a fifth within minutes, so a ratio is the median over pairs of runs
that followed each other, not the quotient of two medians. Absolute images/s carry the drift.

Peak memory is the high-water mark of the process's resident set on a CPU (it includes the interpreter and the
libraries, which --json lists apart as `import_mib`), and of PyTorch's allocator on a GPU.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import backbones
from backbones.cli.common import (
    build_model,
    check_model,
    format_img_size,
    format_table,
    parse_img_size,
)

MODES = ("inference", "train")
RUNTIMES = ("eager", "optimized", "compile", "onnxruntime", "openvino")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """How to run a model; the same for it and for the baseline."""

    batch_size: int = 8
    dtype: str = "float32"  # of autocast; parameters stay float32
    device: str = "cpu"
    threads: int | None = None  # None: PyTorch's choice
    layout: str = "contiguous"
    compile: bool = False
    runtime: str = "eager"
    optimizer: str = "adamw"
    runs: int = 10  # timed pairs
    min_time: float = 0.3  # seconds that one timed run lasts at least; short steps are repeated


@dataclass(frozen=True)
class Result:
    """One model at one size. A number is None where it was not asked for or could not be measured."""

    model: str
    img_size: tuple[int, int]
    params: int | None = None
    inference_images_per_s: float | None = None
    inference_ratio: float | None = None  # of images/s, to the baseline's
    inference_peak_mib: float | None = None
    train_images_per_s: float | None = None
    train_ratio: float | None = None
    train_peak_mib: float | None = None
    import_mib: float | None = None
    error: str | None = None


# Timing -------------------------------------------------------------------------------------------


def median_ratio(model_s: Sequence[float], baseline_s: Sequence[float]) -> float:
    """Speed of the model relative to the baseline's: median of the pairs' quotients of seconds, baseline over model.

    Raises:
        ValueError: the two have different lengths, or none.
    """
    if not model_s or len(model_s) != len(baseline_s):
        raise ValueError(f"need as many timings of the model as of the baseline, got {len(model_s)}, {len(baseline_s)}")
    return statistics.median(b / m for m, b in zip(model_s, baseline_s, strict=True))


def run_by(model: nn.Module, inputs: tuple[torch.Tensor, ...], settings: Settings) -> Callable[..., Any]:
    """What computes the model's outputs by ``settings.runtime``; other runtimes take inputs like the given ones."""
    if settings.runtime == "compile" or settings.compile:
        return torch.compile(model)
    if settings.runtime == "optimized":
        return backbones.optimize(model)
    if settings.runtime == "eager":
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model.eval(), inputs, path, dynamo=True, external_data=False, verbose=False)
        if settings.runtime == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = settings.threads or torch.get_num_threads()
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            names = [entry.name for entry in session.get_inputs()]
            return lambda *xs: session.run(None, {n: x.numpy() for n, x in zip(names, xs, strict=True)})
        import openvino

        config = {"INFERENCE_NUM_THREADS": settings.threads or torch.get_num_threads()}
        config |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
        return lambda *xs: request.infer([x.numpy() for x in xs])


def make_step(spec: str, img_size: tuple[int, int], mode: str, settings: Settings) -> tuple[Callable[[], None], int]:
    """Builds a model with its input, and returns a function that runs one step on it, and the number of parameters.

    An inference step is a forward pass without gradients; a training step is forward, cross entropy (mean square, of
    models that give no logits), backward and an update of all parameters.
    """
    device = torch.device(settings.device)
    memory_format = torch.channels_last if settings.layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(0)
    model = build_model(spec, img_size).to(device, memory_format=memory_format)
    model.train(mode == "train")
    if hasattr(model, "example_inputs"):  # one that takes more than an image
        inputs = model.example_inputs(settings.batch_size, *img_size)
    else:
        inputs = (torch.randn(settings.batch_size, 3, *img_size, device=device).to(memory_format=memory_format),)
    forward = run_by(model, inputs, settings)
    dtype = DTYPES[settings.dtype]

    def run() -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return forward(*inputs)

    def infer() -> None:
        with torch.inference_mode():
            run()

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = run().float()
        loss = cross_entropy(out, labels % out.shape[1]) if out.ndim == 2 else out.square().mean()
        loss.backward()
        optimizer.step()

    if mode == "train":
        labels = torch.arange(settings.batch_size, device=device)
        if settings.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return (train if mode == "train" else infer), sum(p.numel() for p in model.parameters())


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(step: Callable[[], None], repeats: int, device: str) -> float:
    """Seconds of one step, averaged over `repeats` in a row."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / repeats


def time_in_turns(steps: Sequence[Callable[[], None]], settings: Settings) -> list[list[float]]:
    """Seconds a step takes, for each of `steps`, in `settings.runs` rounds in which each has one turn."""
    repeats = []
    for step in steps:
        _seconds(step, 2, settings.device)  # compiling, choosing kernels, first allocations
        repeats.append(max(1, round(settings.min_time / _seconds(step, 1, settings.device))))
    times: list[list[float]] = [[] for _ in steps]
    for i in range(settings.runs):
        order = list(range(len(steps)))
        for k in order if i % 2 == 0 else order[::-1]:  # neither is always the one that runs on warm caches
            times[k].append(_seconds(steps[k], repeats[k], settings.device))
    return times


# What runs in a fresh process ---------------------------------------------------------------------


def _resident_mib(key: str) -> float:
    """The process's resident set in MiB: `VmRSS` now, `VmHWM` at most so far."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(key + ":"))
        return int(line.split()[1]) / 1024
    import resource  # not on Linux: only the maximum is to be had, in bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_memory(spec: str, img_size: tuple[int, int], mode: str, settings: Settings) -> dict[str, Any]:
    """Peak memory of three steps; call it in a fresh process, since a high-water mark never falls."""
    imported: float | None = _resident_mib("VmRSS")
    step, params = make_step(spec, img_size, mode, settings)
    for _ in range(3):
        step()
    if torch.device(settings.device).type == "cuda":
        imported, peak = None, torch.cuda.max_memory_allocated(settings.device) / 2**20
    else:
        peak = _resident_mib("VmHWM")
    return {"peak_mib": peak, "import_mib": imported, "params": params}


def measure_speed(specs: Sequence[str], img_size: tuple[int, int], mode: str, settings: Settings) -> dict[str, Any]:
    """Seconds a step takes for each of `specs`, in turns."""
    steps = [make_step(spec, img_size, mode, settings)[0] for spec in specs]
    return {"seconds": time_in_turns(steps, settings)}


def _worker(task: dict[str, Any]) -> None:
    settings = Settings(**task["settings"])
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run = measure_memory if task["what"] == "memory" else measure_speed
    target = task["specs"][0] if task["what"] == "memory" else task["specs"]
    result = run(target, tuple(task["img_size"]), task["mode"], settings)
    Path(task["result"]).write_text(json.dumps(result))


class WorkerError(RuntimeError):
    """A measuring process ended without a result."""


def _in_fresh_process(
    what: str, specs: Sequence[str], img_size: tuple[int, int], mode: str, settings: Settings
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        task = {
            "what": what,
            "specs": list(specs),
            "img_size": img_size,
            "mode": mode,
            "settings": asdict(settings),
            "result": str(result),
        }
        environment = dict(os.environ)
        if settings.threads:
            environment["OMP_NUM_THREADS"] = str(settings.threads)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # for module:callable
        command = [sys.executable, "-m", "backbones.cli.benchmark", "--worker", json.dumps(task)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.exists():
            raise WorkerError(_reason(done.returncode, done.stderr))
        return json.loads(result.read_text())


def _reason(returncode: int, stderr: str) -> str:
    """One line on why a measuring process failed."""
    if returncode == -9:
        return "killed by the system, most likely out of memory"
    if returncode < 0:
        return f"ended by signal {-returncode}"
    # The exception stands on the first line after the last traceback that is not indented.
    tail = stderr.rpartition("Traceback (most recent call last):")[2].splitlines()
    return next((line for line in tail if line and not line[0].isspace()), f"exit code {returncode}")


# The whole run ------------------------------------------------------------------------------------


def benchmark(
    models: Sequence[str],
    img_sizes: Sequence[tuple[int, int]],
    modes: Sequence[str],
    settings: Settings,
    baseline: str | None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Measures every model at every size; a model that fails has `error` set, and the others go on.

    The baseline's own row comes first at each size; its images/s are the median over all runs beside the models. Where
    the baseline fails, the models are timed alone.
    """
    results: list[Result] = []
    for img_size in img_sizes:
        rows = {name: Result(name, img_size) for name in dict.fromkeys([*([baseline] if baseline else []), *models])}

        for mode in modes:
            for name in rows:
                progress(f"{name}, {format_img_size(img_size)}, {mode}: memory")
                rows[name] = _attempt(rows[name], mode, _with_memory, settings)
            beside: list[float] = []
            for name in [m for m in rows if m != baseline]:
                reference = baseline if baseline and rows[baseline].error is None else None
                progress(f"{name}, {format_img_size(img_size)}, {mode}: speed")
                rows[name] = _attempt(rows[name], mode, _with_speed, settings, reference, beside)
            if baseline:
                progress(f"{baseline}, {format_img_size(img_size)}, {mode}: speed")
                rows[baseline] = _attempt(rows[baseline], mode, _with_baseline_speed, settings, beside)
        results += rows.values()
    return results


def _attempt(row: Result, mode: str, measure: Callable[..., Result], *args: Any) -> Result:
    """`row` with what `measure` adds, or with its error; a row that has one already is left alone."""
    if row.error is not None:
        return row
    try:
        return measure(row, mode, *args)
    except WorkerError as error:
        return replace(row, error=f"{mode}: {error}")


def _with_memory(row: Result, mode: str, settings: Settings) -> Result:
    found = _in_fresh_process("memory", [row.model], row.img_size, mode, settings)
    numbers = {"params": found["params"], "import_mib": found["import_mib"], f"{mode}_peak_mib": found["peak_mib"]}
    return replace(row, **numbers)


def _with_speed(row: Result, mode: str, settings: Settings, baseline: str | None, beside: list[float]) -> Result:
    """`row` with the model's speed and its ratio; the baseline's seconds are added to `beside`."""
    specs = [row.model, *([baseline] if baseline else [])]
    seconds, *pair = _in_fresh_process("speed", specs, row.img_size, mode, settings)["seconds"]
    if pair:
        beside += pair[0]
        numbers: dict[str, Any] = {f"{mode}_ratio": median_ratio(seconds, pair[0])}
        row = replace(row, **numbers)
    return replace(row, **{f"{mode}_images_per_s": settings.batch_size / statistics.median(seconds)})


def _with_baseline_speed(row: Result, mode: str, settings: Settings, beside: Sequence[float]) -> Result:
    seconds = beside or _in_fresh_process("speed", [row.model], row.img_size, mode, settings)["seconds"][0]
    speed = settings.batch_size / statistics.median(seconds)
    numbers: dict[str, Any] = {f"{mode}_ratio": 1.0, f"{mode}_images_per_s": speed}
    return replace(row, **numbers)


# Showing it ---------------------------------------------------------------------------------------


def processor_name() -> str:
    """The processor's name as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(settings: Settings, baseline: str | None) -> dict[str, str]:
    """Everything that a reader needs beside the numbers."""
    cuda = torch.device(settings.device).type == "cuda"
    threads = settings.threads or torch.get_num_threads()
    return {
        "processor": f"{processor_name()}, {threads} of {os.cpu_count()} threads",
        "device": torch.cuda.get_device_name(settings.device) if cuda else settings.device,
        "versions": f"backbones {backbones.__version__}, torch {torch.__version__}, timm {timm.__version__}",
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "batch": str(settings.batch_size),
        "dtype": settings.dtype + ("" if settings.dtype == "float32" else " autocast"),
        "layout": settings.layout,
        "execution": "compile" if settings.compile else settings.runtime,
        "optimizer": settings.optimizer,
        "runs": f"{settings.runs} of at least {settings.min_time} s, medians",
        "baseline": f"{baseline}, in turns with each model" if baseline else "none",
    }


def result_table(results: Sequence[Result], modes: Sequence[str], baseline: str | None) -> str:
    """The results as aligned text; what failed and why stands below."""
    header = ["model", "input", "params M"]
    for mode in modes:
        header += [f"{mode} img/s"] + ([f"x {baseline}"] if baseline else []) + ["peak MiB"]

    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    rows = []
    for r in results:
        row = [r.model, format_img_size(r.img_size), number(r.params and r.params / 1e6, 2)]
        for mode in modes:
            row.append(number(getattr(r, f"{mode}_images_per_s"), 1))
            row += [number(getattr(r, f"{mode}_ratio"), 2)] if baseline else []
            row.append("FAILED" if r.error and r.error.startswith(mode) else number(getattr(r, f"{mode}_peak_mib"), 0))
        rows.append(row)
    lines = [format_table(header, rows)]
    lines += [f"FAILED {r.model} at {format_img_size(r.img_size)}: {r.error}" for r in results if r.error]
    return "\n".join(lines)


def write_csv(path: Path, results: Sequence[Result], about: dict[str, str]) -> None:
    """One row a model and size; the settings are columns, so that files of several runs can be joined."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        fields = list(Result.__dataclass_fields__)
        writer.writerow([*fields, *about])
        for result in results:
            values = asdict(result) | {"img_size": format_img_size(result.img_size)}
            writer.writerow([*(values[f] for f in fields), *about.values()])


def plot(path: Path, results: Sequence[Result], modes: Sequence[str], about: dict[str, str]) -> None:
    """Cost against image size where there are several sizes, otherwise bars of speed and memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(r.model for r in results))
    colors = {name: plt.get_cmap("tab10")(i % 10) for i, name in enumerate(names)}
    sizes = list(dict.fromkeys(r.img_size for r in results))
    panels = [(mode, kind) for mode in modes for kind in ("speed", "memory")]
    several = len(sizes) > 1
    imported = [r.import_mib for r in results if r.import_mib]
    dotted: dict[str, Any] = {"color": "gray", "linestyle": ":", "linewidth": 1}
    memory_label = "peak memory, MiB" + (" (dotted: libraries)" if imported else "")
    height = 3.6 if several else 1.4 + 0.4 * len(names)
    figure, axes = plt.subplots(
        len(modes), 2, figsize=(11, 0.9 + height * len(modes)), squeeze=False, layout="constrained"
    )
    for axis, (mode, kind) in zip(axes.flat, panels, strict=True):
        field = f"{mode}_images_per_s" if kind == "speed" else f"{mode}_peak_mib"
        values = {(r.model, r.img_size): getattr(r, field) for r in results}
        if several:
            for name in names:
                pixels = [(h * w) ** 0.5 for h, w in sizes]
                costs = [values.get((name, size)) for size in sizes]
                if kind == "speed":
                    costs = [1000 / c if c else None for c in costs]
                points = [(p, c) for p, c in zip(pixels, costs, strict=True) if c is not None]
                if points:
                    style = "--" if name == about.get("baseline", "").split(",")[0] else "-"
                    axis.plot(*zip(*points, strict=True), style, marker="o", color=colors[name], label=name)
            axis.set_xticks([(h * w) ** 0.5 for h, w in sizes], [format_img_size(s) for s in sizes])
            axis.set_xlabel("image size, pixels")
            axis.set_ylabel("ms per image" if kind == "speed" else memory_label)
            if kind == "memory" and imported:
                axis.axhline(statistics.median(imported), **dotted)
            axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
            axis.grid(alpha=0.3)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=8)
        else:
            shown = [(r, getattr(r, field)) for r in results]
            bars = axis.barh([r.model for r, _ in shown], [v or 0 for _, v in shown])
            for bar, (r, value) in zip(bars, shown, strict=True):
                bar.set_color(colors[r.model])
                ratio = getattr(r, f"{mode}_ratio") if kind == "speed" else None
                text = "not measured" if value is None else f"{value:.4g}" + (f"  ({ratio:.2f}x)" if ratio else "")
                axis.annotate(
                    text, (value or 0, bar.get_y() + bar.get_height() / 2), (4, 0), textcoords="offset points",
                    va="center", fontsize=8,
                )  # fmt: skip
            if kind == "memory" and imported:
                axis.axvline(statistics.median(imported), **dotted)
            axis.set_xlim(0, 1.35 * max((v or 0 for _, v in shown), default=0) or 1)
            axis.invert_yaxis()
            axis.set_xlabel("images/s" if kind == "speed" else memory_label)
        step = "inference" if mode == "inference" else "training step"
        axis.set_title(f"{step}" + ("" if several else f" at {format_img_size(sizes[0])}"), fontsize=10)
    figure.suptitle(
        f"{about['device'] if about['device'] != 'cpu' else about['processor']}, batch {about['batch']}, "
        f"{about['dtype']}, {about['layout']}, {about['execution']}\n{about['versions']}",
        fontsize=9,
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if a model failed."""
    parser = argparse.ArgumentParser(
        prog="backbones benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a name known to timm, or module:callable")
    parser.add_argument("--img-size", type=parse_img_size, nargs="+", default=[(224, 224)], metavar="N|HxW")
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both")
    parser.add_argument("--baseline", default="resnet50", metavar="MODEL", help='default: resnet50; "none" for none')
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--dtype", choices=DTYPES, default=Settings.dtype, help="bfloat16 means autocast")
    parser.add_argument("--device", default=Settings.device)
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--layout", choices=["contiguous", "channels_last"], default=Settings.layout)
    parser.add_argument("--compile", action="store_true", help="run what torch.compile makes of the models")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default=Settings.runtime, help="what runs the models; all but eager: inference"
    )
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default=Settings.optimizer)
    parser.add_argument("--runs", type=int, default=Settings.runs, help="timed runs of each model")
    parser.add_argument("--min-time", type=float, default=Settings.min_time, help="least seconds of one timed run")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        _worker(args.worker)
        return 0

    if not args.models:
        parser.error("name at least one model")
    for option in ("batch_size", "runs", "threads"):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1, got {value}")
    baseline = None if args.baseline == "none" else args.baseline
    for name in [*args.models, *([baseline] if baseline else [])]:
        try:
            check_model(name)
        except ValueError as error:
            parser.error(str(error))
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    for path in (args.csv, args.json, args.plot):
        if path and not path.resolve().parent.is_dir():
            parser.error(f"the folder of {path} does not exist")

    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
    modes = MODES if args.mode == "both" else (args.mode,)
    if args.runtime in ("optimized", "onnxruntime", "openvino"):
        if args.mode == "train" or args.dtype != "float32" or args.device != "cpu":
            parser.error(f"--runtime {args.runtime} runs inference in float32 on a CPU: leave out the other options")
        modes = ("inference",)
    packages = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
    missing = [name for name in packages.get(args.runtime, ()) if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"--runtime {args.runtime} needs a package: pip install {' '.join(missing)}")
    about = describe(settings, baseline)
    print("\n".join(f"{key + ':':<11}{value}" for key, value in about.items()), end="\n\n", flush=True)

    total = 2 * len(args.img_size) * len(modes) * len({*args.models, baseline} - {None})
    done = 0

    def progress(text: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{total}] {text}", file=sys.stderr, flush=True)

    results = benchmark(args.models, args.img_size, modes, settings, baseline, progress)
    print(result_table(results, modes, baseline))
    if args.csv:
        write_csv(args.csv, results, about)
    if args.json:
        args.json.write_text(json.dumps({"about": about, "results": [asdict(r) for r in results]}, indent=2) + "\n")
    if args.plot:
        plot(args.plot, results, modes, about)
    return 1 if any(r.error for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
