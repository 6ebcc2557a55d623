"""The benchmark's arithmetic, structure and failures. Nothing here asserts a time."""

import csv
import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import backbones
from backbones.cli import benchmark as command
from backbones.cli.benchmark import describe, main
from backbones.cli.benchmarking import measuring, plots, running
from backbones.cli.benchmarking.measuring import (
    Candidate,
    Settings,
    WorkerError,
    make_forward,
    make_step,
    time_in_turns,
)
from backbones.cli.benchmarking.results import Measured, Result, Table, csv_row, write_csv
from backbones.cli.benchmarking.running import Benchmark, median_ratio
from backbones.cli.benchmarking.runtimes import RUNTIMES, check_runtime
from backbones.cli.common import build_model
from backbones.cli.complexity import count_model
from backbones.deploy import FORMATS
from backbones.kernels import Machine, has_fast_kernels, use_machine

UNEXPORTABLE = """
import torch

class Unexportable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        if torch.compiler.is_exporting():
            raise RuntimeError("no exporter for this")
        return self.weight * x.mean((2, 3))
"""


# Arithmetic -----------------------------------------------------------------------------------------------------------


def test_ratio_is_the_median_of_pairs() -> None:
    # The machine slows down tenfold in the second half; each pair still says 2, the quotient of medians would not.
    assert median_ratio([1.0, 1.0, 10.0], [2.0, 2.0, 20.0]) == 2.0
    assert median_ratio([1.0, 10.0, 10.0], [2.0, 2.0, 20.0]) == 2.0
    for bad in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="as many timings"):
            median_ratio(*bad)


def test_models_take_turns() -> None:
    calls: list[str] = []
    times = time_in_turns([lambda: calls.append("a"), lambda: calls.append("b")], Settings(runs=4, min_time=0.0))
    assert [len(t) for t in times] == [4, 4]
    assert calls[-16:] == list("aabbbbaa" * 2)  # a step untimed and one timed a turn, the first in turn alternating


def test_both_products_are_the_same() -> None:
    found = []

    def keep(function: Callable) -> Callable:
        return lambda *args: found.append(function(*args)) or found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "PRODUCT", (24, 16, 8))
        patch.setattr(measuring, "linear", keep(measuring.linear))
        patch.setattr(measuring, "conv2d", keep(measuring.conv2d))
        for step in measuring.product_steps(torch.float32, "cpu"):
            step()
    by_linear, by_convolution = found
    assert by_linear.shape == (24, 8)
    torch.testing.assert_close(by_convolution.permute(0, 2, 3, 1).reshape(24, 8), by_linear)


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inference", "train"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_runs_as_its_settings_say(mode: str, layout: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple] = []
    build = measuring.build_model

    def watched(*args):
        model = build(*args)
        model.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].stride(1), is_autocast_enabled())))
        return model

    def is_autocast_enabled() -> bool:
        return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16

    optimizers = []
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        step = kind.step
        monkeypatch.setattr(kind, "step", lambda self, step=step: optimizers.append(type(self)) or step(self))
    monkeypatch.setattr(measuring, "build_model", watched)
    optimizer = "sgd" if layout == "contiguous" else "adamw"
    settings = Settings(batch_size=2, dtype=dtype, layout=layout, optimizer=optimizer)
    make_step(Candidate("test_convnext", (64, 64)), mode, settings)()
    assert seen == [(1 if layout == "channels_last" else 64 * 64, dtype == "bfloat16")]
    used = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    assert optimizers == ([used] if mode == "train" else [])


def test_a_training_step_updates_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build = measuring.build_model
    monkeypatch.setattr(measuring, "build_model", lambda *args: made.append(build(*args)) or made[-1])
    step = make_step(Candidate("test_van", (64, 64)), "train", Settings(batch_size=2))
    before = [p.detach().clone() for p in made[0].parameters()]
    step()
    assert all(not torch.equal(p, b) for p, b in zip(made[0].parameters(), before, strict=True))


def uncompiled(graph: torch.fx.GraphModule, inputs: list, options: dict | None = None) -> Callable:
    """A backend of ``torch.compile`` that takes inductor's options and needs no compiler."""
    return graph.forward


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of runtimes that load one, for two images."""
    exporting = [name for name in RUNTIMES if RUNTIMES[name].format]
    found = measuring.prepare("test_van", (64, 64), [2], exporting, str(tmp_path_factory.mktemp("files")))
    assert not found["errors"]
    return {name: found["files"][f"{name} 2"] for name in exporting}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_compute_the_model(runtime: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=uncompiled))
    candidate = Candidate("test_van", (64, 64), runtime, files.get(runtime))
    forward, inputs, _ = make_forward(candidate, "inference", Settings(batch_size=2, threads=1))
    torch.manual_seed(0)
    model = build_model("test_van", (64, 64)).eval()
    with torch.inference_mode():
        out, expected = forward(*inputs), model(*inputs)
    out = out if isinstance(out, torch.Tensor) else out[0]
    if RUNTIMES[runtime].int8:
        assert 1e-4 < (out - expected).std() / expected.std() < 0.1
    else:
        assert (out - expected).abs().max() < 1e-4 * expected.std()


def test_plain_is_without_fast_kernels_and_leaves_the_switch_as_it_was() -> None:
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(has_fast_kernels())
        return x / 0 if x.is_floating_point() else x // 0

    step = RUNTIMES["plain"].make(model, torch.float32, ())
    step(torch.ones(1))
    with pytest.raises(RuntimeError, match="ZeroDivision"):
        step(torch.ones(1, dtype=torch.long))
    assert seen == [False, False] and has_fast_kernels()


@pytest.mark.filterwarnings("ignore:BF16")  # on a CPU without the kernels
def test_optimized_computes_in_bfloat16() -> None:
    settings = Settings(batch_size=2, dtype="bfloat16")
    with use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)), torch.inference_mode():
        forward, inputs, _ = make_forward(Candidate("test_van", (64, 64), "optimized"), "inference", settings)
        torch.manual_seed(0)
        expected = build_model("test_van", (64, 64)).eval()(*inputs)
        out = forward(*inputs)
    assert 1e-4 < (out - expected).std() / expected.std() < 0.03


def test_exported_files_are_kept_until_the_model_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def export(net, folder, name, formats, **more):
        made.append(formats)
        for format in formats:
            Path(folder, name + FORMATS[format].suffix).touch()

    monkeypatch.setattr(measuring, "export", export)
    for version in ("1", "1", "2"):
        monkeypatch.setattr(backbones, "__version__", version)
        found = measuring.prepare("test_van", (32, 32), [1], ["onnxruntime", "openvino"], str(tmp_path))
        assert set(found["files"]) == {"onnxruntime 1", "openvino 1"} and not found["errors"]
    assert made == [["onnx", "openvino"]] * 2


def test_where_one_format_fails_the_other_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(net, folder, name, formats, **more):
        if "openvino" in formats:
            raise measuring.ExportError("no operator for this")

    monkeypatch.setattr(measuring, "export", export)
    found = measuring.prepare("test_van", (32, 32), [1, 2], ["onnxruntime", "openvino"], str(tmp_path))
    assert set(found["files"]) == {"onnxruntime 1", "onnxruntime 2"}
    assert found["errors"] == dict.fromkeys(["openvino 1", "openvino 2"], "no operator for this")


def test_counts_are_those_of_complexity(tmp_path: Path) -> None:
    counted, size = count_model("test_van", None, activations=True)
    found = measuring.prepare("test_van", None, [1], [], str(tmp_path))
    assert found["img_size"] == size
    assert (found["params"], found["macs"], found["activations"]) == (counted.params, counted.macs, counted.activations)


def test_a_candidate_that_fails_leaves_the_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PRODUCT", (24, 16, 8))
    candidates = [Candidate("test_van", (32, 32)), Candidate("test_van", (32, 32), "onnxruntime", "missing.onnx")]
    candidates.append(Candidate("test_litv2", (32, 32)))
    found = measuring.measure_speed(candidates, "inference", Settings(batch_size=1, runs=2, min_time=0.0))
    assert [seconds and len(seconds) for seconds in found["seconds"]] == [2, None, 2]
    assert [bool(error) for error in found["errors"]] == [False, True, False]
    assert "missing.onnx" in found["errors"][1] and found["product_gflops"] > 0


def test_reason_is_the_exception() -> None:
    stderr = "x.py:1: UserWarning: old\nTraceback (most recent call last):\n  File x\nValueError: a\nb: c\n"
    assert measuring.reason(1, stderr) == "ValueError: a"
    assert "out of memory" in measuring.reason(-9, "")
    assert measuring.reason(-11, "") == "ended by signal 11"
    assert measuring.reason(3, "") == "exit code 3"


# A whole run ----------------------------------------------------------------------------------------------------------


def fake_process(task: str, threads: int | None = None, **arguments: Any) -> dict[str, Any]:
    """Stands for the measuring processes.

    A step takes 1 s, of `slow` 4 s, half of it where optimized; `sick` fails in training, `odd` as a file, `dying`
    takes its process with it where another runtime is in there too, `absent` cannot be built.
    """
    if task == "prepare":
        if arguments["model"] == "absent":
            raise WorkerError("TypeError: no such layer")
        keys = [f"{runtime} {batch}" for runtime in arguments["runtimes"] for batch in arguments["batch_sizes"]]
        odd = arguments["model"] == "odd"
        files = {} if odd else dict.fromkeys(keys, "a file")
        counts = {"params": 1_000_000, "macs": 500_000_000, "activations": None}
        errors = dict.fromkeys(keys, "no operator for this") if odd else {}
        return {"img_size": list(arguments["img_size"] or (224, 224)), **counts, "files": files, "errors": errors}
    if task == "memory":
        return {"peak_mib": 100.0, "import_mib": 50.0}
    candidates = arguments["candidates"]
    if any(c.model == "dying" for c in candidates) and len({c.runtime for c in candidates}) > 1:
        raise WorkerError("ended by signal 11")
    seconds: list[list[float] | None] = []
    for c in candidates:
        sick = c.model == "sick" and arguments["mode"] == "train"
        one = (4.0 if c.model == "slow" else 1.0) / (2 if c.runtime == "optimized" else 1)
        seconds.append(None if sick else [one] * 3)
    return {"seconds": seconds, "errors": [None if s else "no kernel" for s in seconds], "product_gflops": 10.0}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "in_fresh_process", fake_process)


def run(models: list[str], modes: Any = ("inference",), names: Any = ("eager",), **options: Any) -> list[Result]:
    settings = options.pop("settings", [Settings(batch_size=8)])
    return list(Benchmark(names, modes, settings, "folder", **options).run(models))


def test_rows_of_a_whole_run(fake: None) -> None:
    said: list[str] = []
    settings = [Settings(batch_size=8), Settings(batch_size=1)]
    results = run(["slow", "sick", "base"], measuring.MODES, settings=settings, baseline="base", progress=said.append)
    assert [(r.model, r.batch_size) for r in results] == [(m, b) for m in ("slow", "sick", "base") for b in (8, 1)]
    slow, _, sick, _, base, _ = results
    assert (base.images_per_s("inference"), base.inference.ratio, base.errors) == (8.0, 1.0, ())
    assert (slow.images_per_s("train"), slow.train.ratio, slow.train.peak_mib) == (2.0, 0.25, 100.0)
    # 8 images of 0.5 G multiply-accumulates in 4 s, of 10 GFLOP/s; training takes three times as many
    assert (slow.inference.share, slow.train.share) == (pytest.approx(0.2), pytest.approx(0.6))
    assert sick.inference.ratio == 1.0 and sick.train.seconds is None
    assert sick.errors == ("train: no kernel",)
    assert said[0] == "base: counting" and "sick, eager, batch 1, train: speed" in said


def test_runtimes_are_compared_with_the_first(fake: None) -> None:
    names = ("eager", "optimized", "openvino")
    results = {(r.model, r.runtime): r for r in run(["slow", "odd"], measuring.MODES, names, baseline="base")}
    assert len(results) == 9
    assert results["slow", "eager"].inference.runtime_ratio == 1.0
    assert (
        results["slow", "optimized"].inference.runtime_ratio
        == results["base", "optimized"].inference.runtime_ratio
        == 2
    )
    assert results["slow", "optimized"].inference.ratio == 0.25
    # what only infers has no numbers of training, and that is no error
    assert results["slow", "optimized"].train == Measured() and results["slow", "eager"].train.ratio == 0.25
    assert results["odd", "openvino"].errors == ("no operator for this",)
    assert results["odd", "eager"].inference.ratio == 1.0


def test_a_process_that_dies_is_repeated_by_runtime(fake: None) -> None:
    eager, optimized = run(["dying"], names=("eager", "optimized"))
    assert (eager.images_per_s("inference"), optimized.images_per_s("inference")) == (8.0, 16.0)
    assert optimized.inference.runtime_ratio is None and not optimized.errors


def test_a_model_that_cannot_be_built_is_a_row(fake: None) -> None:
    absent, base = run(["absent"], baseline="base")
    assert absent.errors == ("TypeError: no such layer",) and absent.img_size is None
    assert base.images_per_s("inference") == 8.0
    slow, absent = run(["slow"], baseline="absent")
    assert slow.images_per_s("inference") == 2.0 and slow.inference.ratio is None and absent.errors


def test_without_a_baseline_there_are_no_ratios(fake: None) -> None:
    (result,) = run(["slow"], memory=False)
    assert result.images_per_s("inference") == 2.0 and result.inference.ratio is None
    assert result.inference.peak_mib is None and result.train == Measured()


def test_the_baseline_alone(fake: None) -> None:
    (result,) = run(["base"], baseline="base")
    assert (result.images_per_s("inference"), result.inference.ratio) == (8.0, 1.0)


# Text and files -------------------------------------------------------------------------------------------------------

ABOUT = describe([Settings()], "resnet50")
ROW = Result(
    "van_b0", "openvino", (224, 192), 8, 2, 4_103_000, 876_000_000, 22_040_000,
    Measured(0.02, 1.5, 1.25, 0.5, 300.0), Measured(0.1), 400.0, 250.0, ("train: no kernel",),
)  # fmt: skip


def test_table_is_aligned_whatever_comes() -> None:
    table = Table(measuring.MODES, ["van_b0", "resnet50"], "resnet50", "eager")
    header, line = table.header.splitlines()
    row, failure = table.row(ROW).splitlines()
    absent, _ = table.row(Result("absent", "eager", None, 8, 2, errors=("TypeError: x",))).splitlines()
    assert len(header) == len(line) == len(row) == len(absent)
    assert row.split()[:5] == ["van_b0", "openvino", "224x192", "8", "2"]
    assert row.split()[5:11] == ["20.0", "400.0", "1.50", "1.25", "50", "300"]
    assert failure == "  FAILED train: no kernel"
    assert "x eager" in header and "x eager" not in Table(["inference"], ["van_b0"], None, None).header


def test_csv_has_the_columns_of_timm(tmp_path: Path) -> None:
    path = tmp_path / "speed.csv"
    for number in (1, 2):
        write_csv(path, [ROW] * number, ABOUT)
        rows = list(csv.DictReader(path.open()))
        assert len(rows) == number and list(tmp_path.iterdir()) == [path]
    # of results/benchmark-infer-*.csv and benchmark-train-*.csv
    infer = "model infer_img_size infer_samples_per_sec infer_step_time infer_batch_size"
    infer += " param_count infer_gmacs infer_macts"
    train = "train_samples_per_sec train_step_time train_batch_size train_img_size"
    assert list(rows[0])[:8] == infer.split() and set(train.split()) <= set(rows[0])
    assert [rows[0][key] for key in infer.split()] == [
        "van_b0",
        "224x192",
        "400.0",
        "20.0",
        "8",
        "4.1",
        "0.88",
        "22.04",
    ]
    assert rows[0]["infer_share"] == "0.5" and rows[0]["train_samples_per_sec"] == "80.0"
    assert rows[0]["runtime"] == "openvino" and rows[0]["error"] == "train: no kernel" and rows[0]["dtype"] == "float32"
    assert set(csv_row(Result("a", "eager", None, 1, 1), ABOUT)) == set(rows[0])


# Pictures -------------------------------------------------------------------------------------------------------------


def test_accuracies_are_of_models_and_sizes_that_exist() -> None:
    known = plots.published_accuracies()
    for model, _ in known:
        assert timm.is_model(model), model
    neighbours = {model.partition(".")[0] for model, _ in known} - set(backbones.list_models())
    assert neighbours >= {"convnext_tiny", "swin_tiny_patch4_window7_224", "efficientvit_b1", "mobilenetv4_conv_medium"}
    assert known["resnet50.a1_in1k", (224, 224)] == (80.382, "timm results")
    assert known["litv2_s.in1k", (224, 224)] == (82.044, "repository")
    assert plots.full_name("litv2_s") == "litv2_s.in1k" and plots.full_name("somewhere:model") == "somewhere:model"


def test_accuracy_is_drawn_against_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = []
    label = plots._label
    monkeypatch.setattr(plots, "_label", lambda axis, points: labels.append(points) or label(axis, points))
    results = [
        Result(model, runtime, (224, 224), batch, 2, inference=Measured(ms * batch / 1000))
        for model, ms in (("van_b0", 12), ("litv2_s", 30), ("convnext_tiny.fb_in1k", 31), ("test_van", 1))
        for runtime in ("eager", "openvino")
        for batch in (1, 8)
    ]
    results += [Result("stvit_small", "eager", (224, 224), 1, 2, errors=("no kernel",))]
    path = tmp_path / "plot.png"
    assert plots.plot_accuracy(path, results, ABOUT) == ["test_van", "stvit_small"]
    points = [(12, 75.4, "van_b0", True), (30, 82.044, "litv2_s", True), (31, 82.066, "convnext_tiny", False)]
    assert labels == [points, points]
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_cost_is_drawn_against_size(tmp_path: Path) -> None:
    results = [
        Result("a", "eager", size, 8, 2, inference=Measured(0.1, peak_mib=90.0), train=Measured(0.3), import_mib=50.0)
        for size in ((64, 64), (96, 64))
    ]
    results.append(Result("b", "eager", (64, 64), 8, 2, errors=("killed",)))
    path = tmp_path / "plot.png"
    plots.plot_sizes(path, results, measuring.MODES, ABOUT)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_with_real_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "their_code.py").write_text(UNEXPORTABLE)
    monkeypatch.syspath_prepend(tmp_path)
    words = "test_van --baseline their_code:Unexportable --img-size 64 --batch-size 1"
    words += " --threads 1 --runs 2 --min-time 0 --mode inference --runtime eager onnxruntime"
    exports = tmp_path / "exports"
    assert main([*words.split(), "--csv", str(tmp_path / "out.csv"), "--exports", str(exports)]) == 1

    captured = capsys.readouterr()
    assert captured.out.count("  FAILED ") == 1
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("timm", "onnxruntime"))
    assert ", ".join([f"torch {torch.__version__}", *versions]) + "\n" in captured.out
    assert "best product of 6272 x 768 x 768" in captured.out
    rows = {(row["model"], row["runtime"]): row for row in csv.DictReader((tmp_path / "out.csv").open())}
    names = ["test_van", "their_code:Unexportable"]
    assert list(rows) == [(name, runtime) for name in names for runtime in ("eager", "onnxruntime")]
    assert float(rows["test_van", "eager"]["infer_ratio"]) > 0
    assert rows["test_van", "onnxruntime"]["infer_ratio"] == ""  # the baseline has no file
    for runtime in ("eager", "onnxruntime"):
        row = rows["test_van", runtime]
        for key in ("infer_samples_per_sec", "infer_runtime_ratio", "infer_share", "product_gflops"):
            assert float(row[key]) > 0, key
        assert float(row["infer_peak_mib"]) > float(row["import_mib"]) > 10
        assert row["train_ratio"] == "" and row["dtype"] == "float32" and row["threads"] == "1"
    assert "no exporter for this" in rows["their_code:Unexportable", "onnxruntime"]["error"]
    assert [path.name for path in exports.glob("*.onnx")] == ["test_van-64x64-1.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: MODEL"),
        ("van_b00", "near names: van_b0"),
        ("van_b0 --baseline resnet5", "unknown model 'resnet5'"),
        ("van_b0 --img-size 12x", "no image size"),
        ("van_b0 --device abacus", "--device: abacus cannot be used"),
        ("van_b0 --runtime tvm", "invalid choice: 'tvm'"),
        ("van_b0 --runtime eager optimized --mode train", "optimized cannot train"),
        ("van_b0 --runtime openvino --dtype bfloat16", "openvino runs in float32, not in bfloat16"),
        (f"van_b0 --exports {__file__}", "cannot be written (Not a directory): name another"),
        (f"van_b0 --exports {__file__}/exports", "cannot be written (Not a directory): name another"),
        (f"van_b0 --csv {__file__}", "has other columns: name another file"),
        ("van_b0 --min-time nan", "--min-time: must be a number, 0 or more, got nan"),
        ("van_b0 --min-time inf", "--min-time: must be a number, 0 or more, got inf"),
        ("van_b0 --plot plot.xyz", "--plot plot.xyz: name a file that ends in .png, .pdf or .svg"),
        ("van_b0 --csv .", "--csv: . is a folder"),
        ("test_van --plot plot.png", "no accuracy on ImageNet-1k is known"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Benchmark", None)  # nothing is measured
    with pytest.raises(SystemExit) as error:
        main(arguments.split())
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_rows_of_earlier_runs_stay(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_check", lambda *_: None)
    path = tmp_path / "out.csv"
    for count in (1, 2):
        assert main(["base", "--baseline", "none", "--mode", "inference", "--no-memory", "--csv", str(path)]) == 0
        rows = list(csv.DictReader(path.open()))
        assert [row["model"] for row in rows] == ["base"] * count and all(row["infer_step_time"] for row in rows)
    before = path.read_text()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main(["base", "--baseline", "none", "--mode", "inference", "--no-memory", "--csv", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.strip().endswith(f"cannot write {path} (No space left on device)")
    assert captured.out.splitlines()[-1].startswith("best product")  # all was measured, and printed
    assert path.read_text() == before and os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_missing_says_how_to_install_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package}: .*pip install 'efficient-backbones\[export\]'"):
        check_runtime(package, "float32", "cpu")


def test_other_devices_are_left_to_torch() -> None:
    check_runtime("compile", "bfloat16", "cuda")
    with pytest.raises(ValueError, match="optimized runs on a CPU, not on cuda"):
        check_runtime("optimized", "float32", "cuda")


def test_bfloat16_needs_kernels_where_it_is_not_autocast() -> None:
    with use_machine(Machine(vendor="AuthenticAMD")):
        check_runtime("eager", "bfloat16", "cpu")
        with pytest.raises(ValueError, match="optimized runs in bfloat16 where the CPU has AVX512-BF16 or AMX"):
            check_runtime("optimized", "bfloat16", "cpu")
