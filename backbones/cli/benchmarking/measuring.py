"""What measures: each function of ``TASKS`` runs in a process of its own, started by ``in_fresh_process``.

A shared machine drifts by a fifth within minutes. So whatever is compared takes turns in one process: a model by every
runtime, the baseline by every runtime, and the matrix products that say what the machine can do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear

import backbones
from backbones.cli.benchmarking.runtimes import RUNTIMES
from backbones.cli.common import build_model, default_img_size
from backbones.deploy import FORMATS, ExportError, export, load_export
from backbones.deploy.metadata import weights_hash
from backbones.deploy.programs import first_line
from backbones.files import whole_file

MODES = ("inference", "train")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRODUCT = (6272, 768, 768)  # rows, inputs, outputs: 32 maps of 14 x 14 through a linear layer of width 768
Step = Callable[[], None]


@dataclass(frozen=True)
class Settings:
    """How to run a model; the same for it and for the baseline."""

    batch_size: int = 8
    dtype: str = "float32"  # of autocast, parameters stay float32; of the whole model where it is optimized
    device: str = "cpu"
    threads: int | None = None  # None: PyTorch's choice
    layout: str = "contiguous"
    optimizer: str = "adamw"
    runs: int = 10  # turns that each has
    min_time: float = 0.3  # seconds that one turn lasts at least; short steps are repeated


@dataclass(frozen=True)
class Candidate:
    """What takes a turn: a model at a size, by a runtime; ``file`` is what a runtime of its own loads."""

    model: str
    img_size: tuple[int, int]
    runtime: str = "eager"
    file: str | None = None


# Steps ----------------------------------------------------------------------------------------------------------------


def make_forward(candidate: Candidate, mode: str, settings: Settings) -> tuple[Callable[..., Any], tuple, list]:
    """What computes the outputs, the inputs to call it with, and the parameters that a training step updates."""
    if candidate.file:
        runtime = load_export(candidate.file, settings.threads or torch.get_num_threads())
        return runtime, tuple(torch.load(Path(candidate.file).with_suffix(".inputs"))["inputs"]), []
    device = torch.device(settings.device)
    memory_format = torch.channels_last if settings.layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(0)
    model = build_model(candidate.model, candidate.img_size).to(device, memory_format=memory_format)
    model.train(mode == "train")
    inputs = _example_inputs(model, settings.batch_size, candidate.img_size)
    inputs = tuple(x.to(device, memory_format=memory_format) if _is_image(x) else x for x in inputs)
    make = RUNTIMES[candidate.runtime].make
    assert make is not None, f"{candidate.runtime} runs a file"
    return make(model, DTYPES[settings.dtype], inputs), inputs, list(model.parameters())


def make_step(candidate: Candidate, mode: str, settings: Settings) -> Step:
    """Builds a model with its input, or loads its file, and returns a function that runs one step on it.

    An inference step is a forward pass without gradients; a training step is forward, cross entropy (mean square, of
    models that give no logits), backward and an update of all parameters.
    """
    forward, inputs, parameters = make_forward(candidate, mode, settings)
    device, dtype = torch.device(settings.device), DTYPES[settings.dtype]
    autocast = dtype != torch.float32 and RUNTIMES[candidate.runtime].autocast

    def run() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=autocast):
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

    if mode == "inference":
        return infer
    labels = torch.arange(settings.batch_size, device=device)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    return train


def _is_image(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4


def _example_inputs(model: Any, batch: int, img_size: tuple[int, int]) -> tuple[Any, ...]:
    if hasattr(model, "example_inputs"):  # one that takes more than an image
        return model.example_inputs(batch, *img_size)
    channels = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3,))[0]
    return (torch.randn(batch, channels, *img_size),)


def product_steps(dtype: torch.dtype, device: str) -> list[Step]:
    """The same product as a linear layer and as a 1x1 convolution: libraries differ in which they do best."""
    rows, inputs, outputs = PRODUCT
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
    image = x.view(1, rows, 1, inputs).permute(0, 3, 1, 2)  # (1, inputs, rows, 1), channels last
    kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)

    def as_linear() -> None:
        with torch.inference_mode():
            linear(x, weight)

    def as_convolution() -> None:
        with torch.inference_mode():
            conv2d(image, kernel)

    return [as_linear, as_convolution]


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(step: Step, repeats: int, device: str) -> float:
    """Seconds of one step, averaged over ``repeats`` in a row."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / repeats


def time_in_turns(steps: Sequence[Step], settings: Settings) -> list[list[float]]:
    """Seconds a step takes, for each of ``steps``, in ``settings.runs`` rounds in which each has one turn.

    The first step of a turn is not timed: caches hold another's data, and threads of another runtime still spin.
    """
    repeats = []
    for step in steps:
        _seconds(step, 2, settings.device)  # compiling, choosing kernels, first allocations
        repeats.append(max(1, round(settings.min_time / _seconds(step, 1, settings.device))))
    times: list[list[float]] = [[] for _ in steps]
    for i in range(settings.runs):
        order = list(range(len(steps)))
        for k in order if i % 2 == 0 else order[::-1]:  # neither always follows the same one
            steps[k]()
            times[k].append(_seconds(steps[k], repeats[k], settings.device))
    return times


# What runs in a fresh process -----------------------------------------------------------------------------------------


def prepare(
    model: str,
    img_size: tuple[int, int] | None,
    batch_sizes: Sequence[int],
    runtimes: Sequence[str],
    folder: str,
) -> dict[str, Any]:
    """Counts a model and exports it for the runtimes that load files, at each batch size.

    Returns:
        ``img_size``, ``params``; ``macs`` and ``activations`` of one image, None where they cannot be counted;
        ``files`` and ``errors`` by runtime and batch size, as ``"openvino 8"``.
    """
    torch.manual_seed(0)
    net = build_model(model, img_size).eval()
    height, width = img_size or default_img_size(net)
    size = (height, width)
    found: dict[str, Any] = {"img_size": size, "params": sum(p.numel() for p in net.parameters())}
    found |= {"macs": None, "activations": None, "files": {}, "errors": {}}
    with contextlib.suppress(Exception):  # fvcore is missing, or the model cannot be traced: it may run nevertheless
        from backbones.cli.complexity import count_model

        counted, _ = count_model(model, size, activations=True)
        found |= {"macs": counted.macs, "activations": counted.activations}
    for batch in batch_sizes if runtimes else ():
        for int8 in (False, True):
            chosen = [runtime for runtime in runtimes if RUNTIMES[runtime].int8 == int8]
            name = f"{model.replace(':', '_')}-{height}x{width}-{batch}" + int8 * "_int8"
            files, errors = _exported(net, name, batch, size, chosen, folder, int8) if chosen else ({}, {})
            found["files"] |= {f"{runtime} {batch}": file for runtime, file in files.items()}
            found["errors"] |= {f"{runtime} {batch}": error for runtime, error in errors.items()}
    return found


def _exported(
    net: nn.Module, name: str, batch: int, size: tuple[int, int], runtimes: Sequence[str], folder: str, int8: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Files of a fixed size that compute what the model does, and where there is none why, by runtime.

    A file that is there already is used, if its weights and versions are those of now.
    """
    inputs = _example_inputs(net, batch, size)
    made_of = {"weights_sha256": weights_hash(net), "torch": str(torch.__version__), "backbones": backbones.__version__}
    more: dict[str, Any] = {"inputs": lambda *_: inputs} if hasattr(net, "example_inputs") else {}
    more |= {"img_size": size, "batch": batch, "dynamic_size": False, "int8": inputs[0] if int8 else None}
    formats = {runtime: str(RUNTIMES[runtime].format) for runtime in runtimes}
    files = {runtime: Path(folder, name + FORMATS[format].suffix) for runtime, format in formats.items()}
    stamp = Path(folder, name + ".inputs")
    if not stamp.exists() or torch.load(stamp)["made_of"] != made_of:
        for written in FORMATS.values():
            stamp.with_name(name + written.suffix).unlink(missing_ok=True)
        with whole_file(stamp) as partial:
            torch.save({"made_of": made_of, "inputs": list(inputs)}, partial)
    missing = [runtime for runtime, file in files.items() if not file.exists()]
    if missing:
        try:  # the exporter runs once for all
            export(net, folder, name, [formats[runtime] for runtime in missing], **more)
            missing = []
        except ExportError:
            pass
    errors = {}
    for runtime in missing:
        try:
            export(net, folder, name, [formats[runtime]], **more)
        except ExportError as error:
            errors[runtime] = str(error)
    return {runtime: str(file) for runtime, file in files.items() if runtime not in errors}, errors


def measure_memory(candidate: Candidate, mode: str, settings: Settings) -> dict[str, Any]:
    """Peak memory in MiB of three steps; call it in a fresh process, since a high-water mark never falls."""
    imported: float | None = _resident_mib("VmRSS")
    step = make_step(candidate, mode, settings)
    for _ in range(3):
        step()
    if torch.device(settings.device).type == "cuda":
        return {"peak_mib": torch.cuda.max_memory_allocated(settings.device) / 2**20, "import_mib": None}
    return {"peak_mib": _resident_mib("VmHWM"), "import_mib": imported}


def _resident_mib(key: str) -> float | None:
    """The process's resident set in MiB: ``VmRSS`` now, ``VmHWM`` at most so far; None where neither is kept."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(key + ":"))
        return int(line.split()[1]) / 1024
    try:
        import resource  # macOS: only the maximum is to be had, in bytes
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_speed(candidates: Sequence[Candidate], mode: str, settings: Settings) -> dict[str, Any]:
    """Seconds a step takes, in turns.

    Returns:
        ``seconds`` and ``errors`` of each candidate, one of them None; ``product_gflops``, the best speed of
        ``PRODUCT`` in 10^9 floating point operations a second (a multiply-accumulate is two).
    """
    steps: list[Step | None] = []
    errors: list[str | None] = []
    for candidate in candidates:
        try:
            step = make_step(candidate, mode, settings)
            step()
        except Exception as error:  # of any type: the others still take their turns
            steps.append(None)
            errors.append(first_line(error))
        else:
            steps.append(step)
            errors.append(None)
    products = product_steps(DTYPES[settings.dtype], settings.device)
    times = time_in_turns([*(step for step in steps if step), *products], settings)
    best = min(median(seconds) for seconds in times[-len(products) :])
    rows, inputs, outputs = PRODUCT
    timed = iter(times)
    return {
        "seconds": [next(timed) if step else None for step in steps],
        "errors": errors,
        "product_gflops": 2 * rows * inputs * outputs / best / 1e9,
    }


# Processes ------------------------------------------------------------------------------------------------------------


class WorkerError(RuntimeError):
    """A measuring process ended without a result."""


TASKS: dict[str, Callable[..., dict[str, Any]]] = {"prepare": prepare, "memory": measure_memory, "speed": measure_speed}


def in_fresh_process(task: str, threads: int | None = None, **arguments: Any) -> dict[str, Any]:
    """Calls a function of ``TASKS`` in a process of its own.

    Raises:
        WorkerError: If it fails, in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        text = json.dumps([task, threads, arguments, str(result)], default=asdict)
        environment = dict(os.environ)
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # for module:callable
        command = [sys.executable, "-m", "backbones.cli.benchmarking.measuring", text]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.exists():
            raise WorkerError(reason(done.returncode, done.stderr))
        return json.loads(result.read_text())


def reason(returncode: int, stderr: str) -> str:
    """One line on why a measuring process failed."""
    if returncode == -9:
        return "killed by the system, most likely out of memory"
    if returncode < 0:
        return f"ended by signal {-returncode}"
    # The exception stands on the first line after the last traceback that is not indented.
    tail = stderr.rpartition("Traceback (most recent call last):")[2].splitlines()
    return next((line for line in tail if line and not line[0].isspace()), f"exit code {returncode}")


def _worker(text: str) -> None:
    task, threads, arguments, result = json.loads(text)
    if threads:
        torch.set_num_threads(threads)
    if "settings" in arguments:
        arguments["settings"] = Settings(**arguments["settings"])
    if "candidate" in arguments:
        arguments["candidate"] = _candidate(arguments["candidate"])
    if "candidates" in arguments:
        arguments["candidates"] = [_candidate(candidate) for candidate in arguments["candidates"]]
    Path(result).write_text(json.dumps(TASKS[task](**arguments)))


def _candidate(fields: dict[str, Any]) -> Candidate:
    return Candidate(**fields | {"img_size": tuple(fields["img_size"])})


if __name__ == "__main__":
    _worker(sys.argv[1])
