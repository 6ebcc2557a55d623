"""The benchmark's arithmetic, structure and failures. Nothing here asserts a time."""

import csv
import json
from pathlib import Path

import pytest
import torch

import backbones
from backbones.cli import benchmark as bench
from backbones.cli.benchmark import (
    Result,
    Settings,
    WorkerError,
    benchmark,
    main,
    median_ratio,
    result_table,
    time_in_turns,
)

BROKEN = """
import torch

class Broken(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        raise RuntimeError("no kernel for this")
"""


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
    assert calls[-8:] == list("abba" * 2)  # one step a turn, the first in turn alternating


@pytest.mark.parametrize("mode", ["inference", "train"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_runs(mode: str, layout: str, dtype: str) -> None:
    settings = Settings(
        batch_size=2, dtype=dtype, layout=layout, optimizer="sgd" if layout == "contiguous" else "adamw"
    )
    step, params = bench.make_step("test_convnext", (64, 64), mode, settings)
    step()
    assert params == 272128


def test_a_training_step_updates_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build = bench.build_model
    monkeypatch.setattr(bench, "build_model", lambda *args: made.append(build(*args)) or made[-1])
    step, _ = bench.make_step("test_van", (64, 64), "train", Settings(batch_size=2))
    before = [p.detach().clone() for p in made[0].parameters()]
    step()
    assert all(not torch.equal(p, b) for p, b in zip(made[0].parameters(), before, strict=True))


def fake_worker(what, specs, img_size, mode, settings):
    """Stands for the measuring process: `slow` takes 4 s, others 1 s; `sick` fails in training."""
    if "sick" in specs and mode == "train":
        raise WorkerError("killed by the system, most likely out of memory")
    if what == "memory":
        return {"peak_mib": 100.0, "import_mib": 50.0, "params": 1_000_000}
    return {"seconds": [[4.0 if spec == "slow" else 1.0] * 3 for spec in specs]}


def test_results_of_a_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_in_fresh_process", fake_worker)
    said: list[str] = []
    sizes = [(64, 64), (96, 64)]
    results = benchmark(["slow", "sick", "base"], sizes, bench.MODES, Settings(batch_size=8), "base", said.append)

    assert [(r.model, r.img_size) for r in results] == [(m, s) for s in sizes for m in ("base", "slow", "sick")]
    base, slow, sick = results[:3]
    assert (base.inference_images_per_s, base.inference_ratio, base.error) == (8.0, 1.0, None)
    assert (slow.train_images_per_s, slow.train_ratio, slow.train_peak_mib) == (2.0, 0.25, 100.0)
    assert sick.inference_ratio == 1.0 and sick.train_ratio is None
    assert sick.error == "train: killed by the system, most likely out of memory"
    assert len(said) == 2 * 2 * 2 * 3 and "sick, 96x64, train: speed" in said
    table = result_table(results, bench.MODES, "base")
    assert table.count("FAILED sick at") == 2 and "0.25" in table


def test_without_a_baseline_there_are_no_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_in_fresh_process", fake_worker)
    (result,) = benchmark(["slow"], [(64, 64)], ["inference"], Settings(), None)
    assert result.inference_images_per_s == 2.0 and result.inference_ratio is None and result.train_images_per_s is None
    assert " x " not in result_table([result], ["inference"], None)


def test_models_are_timed_alone_beside_a_baseline_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_in_fresh_process", fake_worker)
    base, slow = benchmark(["slow"], [(64, 64)], ["train"], Settings(), "sick")
    assert base.error and slow.error is None
    assert slow.train_images_per_s == 2.0 and slow.train_ratio is None


@pytest.mark.parametrize("several_sizes", [False, True])
def test_plot_comes_out(tmp_path: Path, several_sizes: bool) -> None:
    sizes = [(64, 64), (96, 96)] if several_sizes else [(64, 64)]
    results = [Result("a", s, 10, 5.0, 1.0, 100.0, 2.0, 1.0, 200.0, 50.0) for s in sizes]
    results += [Result("b", s, 10, 7.0, 1.4, 110.0, error="train: killed") for s in sizes]
    path = tmp_path / "plot.png"
    bench.plot(path, results, bench.MODES, bench.describe(Settings(), "a"))
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_reason_is_the_exception() -> None:
    stderr = "x.py:1: UserWarning: old\nTraceback (most recent call last):\n  File x\nValueError: a\nb: c\n"
    assert bench._reason(1, stderr) == "ValueError: a"
    assert "out of memory" in bench._reason(-9, "")
    assert bench._reason(-11, "") == "ended by signal 11"
    assert bench._reason(3, "") == "exit code 3"


@pytest.mark.slow
def test_command_with_real_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_code.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json")}
    arguments = [
        "test_van",
        "broken_code:Broken",
        "--baseline",
        "test_convnext",
        "--img-size",
        "64",
        "--batch-size",
        "1",
    ]
    arguments += ["--threads", "1", "--runs", "2", "--min-time", "0", "--mode", "inference"]
    assert main([*arguments, "--csv", str(files["csv"]), "--json", str(files["json"])]) == 1

    captured = capsys.readouterr()
    assert "FAILED broken_code:Broken at 64: inference: RuntimeError: no kernel for this" in captured.out
    assert f"torch {torch.__version__}" in captured.out and "1 of" in captured.out
    assert "[1/6] test_convnext" in captured.err
    rows = {row["model"]: row for row in csv.DictReader(files["csv"].open())}
    assert list(rows) == ["test_convnext", "test_van", "broken_code:Broken"]
    assert float(rows["test_van"]["inference_images_per_s"]) > 0 and float(rows["test_van"]["inference_ratio"]) > 0
    assert float(rows["test_van"]["inference_peak_mib"]) > float(rows["test_van"]["import_mib"]) > 10
    assert rows["test_van"]["train_ratio"] == "" and rows["test_van"]["dtype"] == "float32"
    saved = json.loads(files["json"].read_text())
    assert saved["about"]["batch"] == "1" and len(saved["results"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one model"),
        (["van_b00"], "near names: van_b0"),
        (["van_b0", "--baseline", "resnet5"], "unknown model 'resnet5'"),
        (["van_b0", "--img-size", "12x"], "no image size"),
        (["van_b0", "--runs", "0"], "--runs must be at least 1"),
        (["van_b0", "--device", "abacus"], "--device abacus"),
        (["van_b0", "--plot", "nowhere/at/all.png"], "does not exist"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["eager", "optimized", "onnxruntime", "openvino"])
def test_runtimes_compute_the_model(runtime: str) -> None:
    torch.manual_seed(0)
    model, x = backbones.create_model("test_van").eval(), torch.randn(2, 3, 64, 64)
    forward = bench.run_by(model, (x,), Settings(runtime=runtime, threads=1))
    with torch.inference_mode():
        out, expected = forward(x), model(x)
    out = out if isinstance(out, torch.Tensor) else torch.as_tensor(out[0])
    assert (out - expected).abs().max() < 1e-4 * expected.std()


def test_other_runtimes_infer_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["test_van", "--runtime", "optimized", "--mode", "train"])
    assert "runs inference in float32 on a CPU" in capsys.readouterr().err
