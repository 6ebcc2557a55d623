"""The console script: its commands, other people's scripts, and an installed wheel outside the checkout."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import backbones
from backbones import cli

ROOT = Path(__file__).resolve().parents[2]
SPELLINGS = {
    path: re.findall(r"^from (backbones\.cli\.\w+) import main$", path.read_text(), re.MULTILINE)
    for path in sorted((ROOT / "tools").glob("*.py"))
}


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith(f"usage: backbones {name} ")


def test_help_lists_the_commands_and_imports_none(tmp_path):
    done = python("-X", "importtime", "-m", "backbones", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.about)}$", done.stdout, re.MULTILINE)
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "backbones.models.van" in imported
    assert not imported & {"mmengine", "matplotlib", "fvcore", "diffusers", *(c.module for c in cli.COMMANDS.values())}


def refusal(words, capsys):
    """The last option of a command line and its value, and what the command says of it."""
    option, value = re.search(r"(--[\w-]+).* (\S+)$", words).groups()
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2
    return option, value, capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "complexity van_b0 --num-classes -5",
        "sample --seed -1",
        "train digits.py --seed 4294967296",
    ],
)
def test_numbers_from_zero_are_checked_before_the_work(words, capsys):
    option, value, said = refusal(words, capsys)
    assert re.search(rf"argument {option}: must be a whole number, .*, got {value}$", said, re.MULTILINE)


@pytest.mark.parametrize(
    "words",
    [
        "benchmark van_b0 --batch-size 8 0",
        "benchmark van_b0 --runs 0",
        "benchmark van_b0 --threads -1",
        "check-export van_b0.onnx --topk 0",
        "encode-latents photos --batch-size 0",
        "export van_b0 --int8-images 0",
        "predict photos --batch-size 0",
        "predict photos --topk -1",
        "probe van_b0 --batch-size 0",
        "probe van_b0 --memory 0",
        "probe van_b0 --queries 1.5",
        "sample --batch-size 0",
        "sample --count x",
        "sample --frames 0",
        "sample --steps 0",
        "train digits.py --accumulate 0",
    ],
)
def test_numbers_of_things_are_checked_before_the_work(words, capsys):
    option, value, said = refusal(words, capsys)
    assert f"argument {option}: must be a whole number, at least 1, got {value}" in said


def options_of(command: str, monkeypatch) -> list[argparse.Action]:
    """The options of a command that take a value."""
    found = []

    def parse_args(parser, *_):
        found.extend(action for action in parser._actions if action.option_strings and action.nargs != 0)
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        importlib.import_module(cli.COMMANDS[command].module).main([])
    return found


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_what_cannot_be_written_or_used_is_said_before_the_work(command, monkeypatch, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    numbers = [float("nan"), float("inf"), float("-inf"), -1e9]
    for option in options_of(command, monkeypatch):
        name = option.option_strings[0]
        said, values = "", []
        if name in ("--out", "--out-dir", "--csv", "--plot", "--exports", "--cache"):
            said, values = "cannot be written (Not a directory): name another", [file / "below" / "deeper"]
        elif name == "--device":
            said, values = "cannot be used: ", ["abacus", "cuda:99"]
        elif isinstance(option.default, float) or name in ("--ema", "--time"):
            said, values = "must be a number, ", [*numbers, "many"]
        for value in values:
            with pytest.raises(SystemExit) as ended:
                cli.main([command, f"{name}={value}"])
            error = capsys.readouterr().err
            assert ended.value.code == 2 and f"argument {name}: " in error and said in error, (name, value, error)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_option_is_a_bare_path_or_number(command, monkeypatch):
    """What is written has a type that tries it, and numbers one that knows their limits."""
    for option in options_of(command, monkeypatch):
        assert option.type not in (Path, float), f"{command} {option.option_strings[0]}"


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("backbones.cli.card.main", interrupted)
    assert cli.main(["card", "van_b0"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"backbones {backbones.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["xyzzy"], "no command 'xyzzy'; there are train, test, "),
        ([], "name a command; there are train, test, "),
        (["--verbose"], "unrecognized arguments: --verbose"),
    ],
)
def test_what_is_no_command(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "missing", "message"),
    [
        (
            ["train", "van-b0_8xb128_in1k"],
            "mmengine",
            "train needs mmengine: pip install 'efficient-backbones[mm]'",
        ),
        (["complexity", "van_b0"], "fvcore", "needs fvcore: pip install 'efficient-backbones[tools]'"),
        (["complexity", "van_b0"], "difflib", "ModuleNotFoundError: import of difflib halted"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(words, missing, message, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from backbones.cli import main; sys.exit(main({words}))"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr
    assert message.startswith("Mod") or "Traceback" not in done.stderr


def test_opencv_without_a_display(monkeypatch):
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    monkeypatch.setattr(importlib, "import_module", lambda name: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit, match="libGL is missing.*opencv-python-headless"):
        cli.main(["train", "config.py"])


# Tools and other people's scripts -------------------------------------------------------------------------------------


def test_no_script_changes_where_modules_are_found():
    for path in SPELLINGS:
        assert "sys.path" not in path.read_text(), path
    assert {module for (module,) in filter(None, SPELLINGS.values())} <= {c.module for c in cli.COMMANDS.values()}


@pytest.mark.parametrize("path", [path for path, modules in SPELLINGS.items() if modules], ids=lambda path: path.stem)
def test_tools_are_spellings_of_the_commands(path):
    """A script that calls the command's own function, and nothing else."""
    spelling = importlib.import_module(f"tools.{path.stem}")
    assert spelling.main is importlib.import_module(*SPELLINGS[path]).main
    assert len(path.read_text().splitlines()) < 10


def test_a_tool_runs_anywhere(tmp_path):
    done = python(str(ROOT / "tools/complexity.py"), "test_van", cwd=tmp_path)
    assert done.returncode == 0 and re.search(r"^test_van +\d+ ", done.stdout, re.MULTILINE)


SCRIPT = """
import argparse

import timm
from beside import NAME

parser = argparse.ArgumentParser()
parser.add_argument("--model")
if __name__ == "__main__":
    print(NAME, parser.prog, sum(p.numel() for p in timm.create_model(parser.parse_args().model).parameters()))
"""


def write_script(folder: Path, spelling: str) -> None:
    folder.mkdir()
    beside = "beside" if spelling.endswith(".py") else f"{folder.name}.beside"
    (folder / "count.py").write_text(SCRIPT.replace("beside", beside))
    (folder / "beside.py").write_text("NAME = 'parameters'\n")


@pytest.mark.parametrize("spelling", ["scripts/count.py", "-m scripts.count"])
def test_other_peoples_scripts_find_the_models(spelling, tmp_path):
    """timm's own train.py, validate.py and benchmark.py know no other way to the models than the registry."""
    write_script(tmp_path / "scripts", spelling)
    done = python("-m", "backbones", *spelling.split(), "--model", "test_van", cwd=tmp_path)
    parameters = sum(p.numel() for p in backbones.create_model("test_van").parameters())
    assert done.stdout == f"parameters count.py {parameters}\n", done.stderr


def test_mistakes_of_other_peoples_scripts_are_theirs(tmp_path):
    write_script(tmp_path / "scripts", "scripts/count.py")
    failed = python("-m", "backbones", "scripts/count.py", "--modle", "test_van", cwd=tmp_path)
    assert failed.returncode == 2 and "unrecognized arguments: --modle" in failed.stderr


# An installed wheel ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of a wheel built from this checkout, without what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = python(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", str(ROOT), cwd=folder)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "wheels").iterdir()
    done = python(*pip, "install", "--no-deps", "--target", "site", str(wheel), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run_installed(site: Path, *words: str, cwd: Path) -> str:
    done = python(str(site / "bin" / "backbones"), *words, cwd=cwd, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_wheel_has_the_console_script_and_every_config(installed, tmp_path):
    assert "encode-latents" in run_installed(installed, "--help", cwd=tmp_path)
    shipped = installed / "backbones" / ".mim" / "configs"
    here, there = (
        {path.relative_to(folder) for path in folder.rglob("*.*") if "__pycache__" not in path.parts}
        for folder in (ROOT / "configs", shipped)
    )
    assert here == there
    where = tmp_path / "where.py"
    where.write_text("import backbones.configs as c; print(c.find_config('van-b0_8xb128_in1k'))")
    assert run_installed(installed, str(where), cwd=tmp_path).strip().startswith(str(shipped))


@pytest.mark.mm
@pytest.mark.slow
def test_a_detector_trains_from_a_wheel_by_the_name_of_its_config(installed, tmp_path):
    from backbones.mm.training import write_digit_scenes

    name = "van-test_retinanet-fpn_1xb8-400i_digits-256x192"
    write_digit_scenes(tmp_path / "data" / "digit_scenes", train=4, val=2)
    changes = {"train_cfg.max_iters": 2, "train_cfg.val_interval": 2, "default_hooks.checkpoint.interval": 2}
    changes |= {"train_dataloader.batch_size": 2, "train_dataloader.num_workers": 0, "val_dataloader.num_workers": 0}
    changes |= {"train_dataloader.persistent_workers": False, "val_dataloader.persistent_workers": False}
    run_installed(installed, "train", name, "--cfg-options", *(f"{k}={v}" for k, v in changes.items()), cwd=tmp_path)
    work_dir = tmp_path / "work_dirs" / name
    assert (work_dir / "iter_2.pth").exists() and (work_dir / "learning_curve.png").exists()
    run_installed(installed, "test", name, str(work_dir / "iter_2.pth"), cwd=tmp_path)
    assert (work_dir / "metrics.json").exists()
