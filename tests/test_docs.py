"""README, CONTRIBUTING and the pages of docs/: every python block runs, every command and link is right.

A block behind ``<!-- downloads weights -->`` runs too, without loading them; ``<!-- reads flowers -->`` gives it a
small folder of that name. Blocks with ``_base_`` are configs: MMEngine reads them, and those about flowers and meters
train.
"""

import contextlib
import importlib
import inspect
import io
import itertools
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms.functional import to_pil_image

import backbones
from backbones import cli
from backbones.configs import find_config
from backbones.kernels import set_fast_kernels

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENTS = {"downloads weights", "reads flowers", "a config that reads flowers", "a config that reads meters"}


def blocks(language: str) -> list[tuple[str, str, list[str]]]:
    """(page and line, text, comments above) of every fenced block in a language."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[2] == language:
                line = text[: match.start(3)].count("\n")
                comments = re.findall(r"<!-- (.*?) -->", match[1])
                found.append((f"{page.relative_to(ROOT)}:{line}", match[3], comments))
    return found


PYTHON = blocks("python")
CONFIGS = [block for block in PYTHON if re.search("^_base_", block[1], re.MULTILINE)]
SCRIPTS = [block for block in PYTHON if block not in CONFIGS]
COMMANDS = [(where, line) for where, text, _ in blocks("bash") for line in text.splitlines() if line]


def by_place(blocks: list) -> dict:
    def marks(where: str, text: str) -> list:
        kinds = {"slow": "torch.export" in text, "clients": where.startswith("docs/clients.md")}
        return [getattr(pytest.mark, kind) for kind, applies in kinds.items() if applies]

    values = [pytest.param(*block, marks=marks(*block[:2])) for block in blocks]
    return {"argvalues": values, "ids": [block[0] for block in blocks]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the repository's configs, and with flowers: crops of photographs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    china, flower = (torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images)
    for split, number in (("train", 6), ("val", 2)):
        for name, image in (("daisy", flower), ("tulip", china)):
            (tmp_path / "flowers" / split / name).mkdir(parents=True)
            for i in range(number):
                crop = to_pil_image(image[:, 30 * i : 30 * i + 160, 50 * i : 50 * i + 200])
                crop.save(tmp_path / "flowers" / split / name / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """``pretrained=True`` does all but fetch and load."""
    monkeypatch.setattr("backbones.models._registry.pretrained_overlay", lambda *args, **kwargs: None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *args, **kwargs: None)


def test_there_are_blocks_and_no_other_marks() -> None:
    assert len(SCRIPTS) > 5 and len(CONFIGS) > 1 and len(COMMANDS) > 10
    assert {comment for _, _, comments in PYTHON for comment in comments} <= COMMENTS
    # every fenced block is of a kind that is looked at, or a picture of a folder
    languages = {match[2] for page in PAGES for match in BLOCK.finditer(page.read_text())}
    assert languages <= {"python", "bash", "yaml", "block", ""}


@pytest.mark.parametrize(("where", "text", "comments"), **by_place(SCRIPTS))
def test_scripts_run(where, text, comments, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "downloads weights" in comments:
        without_weights(monkeypatch)
    torch.manual_seed(0)
    code = compile("\n" * int(where.partition(":")[2]) + text, str(ROOT / where.partition(":")[0]), "exec")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, {"__name__": "__main__"})
    finally:
        set_fast_kernels(True)


@pytest.mark.mm
@pytest.mark.parametrize(("where", "text", "comments"), **by_place(CONFIGS))
def test_configs_build(where, text, comments, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.registry import MODELS, DefaultScope

    from backbones.mm.training.run import check_config, load_config

    without_weights(monkeypatch)
    Path("page.py").write_text(text)
    cfg = load_config("page.py")
    if "a config that reads flowers" in comments:
        check_config(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        assert sum(p.numel() for p in MODELS.build(cfg.model).parameters()) > 0


@pytest.mark.mm
@pytest.mark.slow
def test_the_config_for_flowers_trains(folder: Path) -> None:
    from backbones.cli import train

    (text,) = (text for _, text, comments in CONFIGS if "a config that reads flowers" in comments)
    (folder / "flowers.py").write_text(text)
    options = ["model.backbone.model=test_van", "model.backbone.pretrained=False", "train_cfg.max_epochs=2"]
    train.main(["flowers.py", "--work-dir", "work", "--cfg-options", *options])
    assert (folder / "work" / "epoch_2.pth").exists()


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("meters.py", "roi_head"), ("dials.py", "decode_head")])
def test_the_configs_for_meters_train_and_predict(name: str, part: str, folder: Path) -> None:
    """As the page says, with a tiny model and small images instead of a long run."""
    from backbones.cli import predict, test, train
    from backbones.mm.training.digit_scenes import write_digit_scenes

    write_digit_scenes("meters", train=4, val=2)
    (text,) = (text for _, text, comments in CONFIGS if "a config that reads meters" in comments and part in text)
    Path(name).write_text(text)
    if part == "roi_head":
        size, checkpoint = "(192,144)", "epoch_1.pth"
        options = {"train_cfg.max_epochs": 1, "train_cfg.val_interval": 1, "default_hooks.checkpoint.interval": 1}
        # heads of full width take a while for a thousand regions
        options |= {"model.train_cfg.rpn_proposal.max_per_img": 20, "model.train_cfg.rcnn.sampler.num": 16}
        options |= {"model.test_cfg.rpn.max_per_img": 20}
    else:
        size, checkpoint = "(512,128)", "iter_2.pth"
        options = {"train_cfg.max_iters": 2, "train_cfg.val_interval": 2, "default_hooks.checkpoint.interval": 2}
        options |= {"train_dataloader.dataset.pipeline.3.crop_size": "(96,96)"}
        options |= {"model.data_preprocessor.size": "(96,96)"}
    for split, step in (("train", 2), ("val", 1), ("test", 1)):
        loader = f"{split}_dataloader"
        options |= {f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
        options |= {f"{loader}.dataset.pipeline.{step}.scale": size}
    options |= {"train_dataloader.batch_size": 2, "model.backbone.model": "test_van"}
    options |= {"model.backbone.pretrained": False, "model.neck.in_channels": "[16,32,48,64]"}
    changes = ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]
    train.main([name, "--work-dir", "work", "--auto-scale-lr", *changes])
    resolved = f"work/{name}"  # with the changes
    assert all(-1 <= value <= 100 for value in test.main([resolved, f"work/{checkpoint}"]).values())
    command = ["meters/images/val", "--config", resolved, "--checkpoint", f"work/{checkpoint}", "--out-dir", "out"]
    assert predict.main(command) == 0
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["0000.jpg.png", "0001.jpg.png"]


# Commands and links --------------------------------------------------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def extras() -> set[str]:
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


@pytest.mark.parametrize(("where", "command"), **by_place(COMMANDS))
def test_commands_name_what_exists(where: str, command: str) -> None:
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if words[0] == "make":
        assert set(words[1:]) <= make_targets()
    elif words[0] == "pip":
        assert words[1] in ("install", "uninstall")
        for extra in re.findall(r"^\.\[(.*)\]$", "\n".join(words), re.MULTILINE):
            assert set(extra.split(",")) <= extras()
    else:
        if words[0] in ("torchrun", "python"):
            assert "-m" in words, f"what is {command!r}?"
            words = words[words.index("-m") + 1 :]
        assert words[0] == "backbones" and words[1] in cli.COMMANDS, f"what is {command!r}?"
        name, arguments = words[1], words[2:]
        source = inspect.getsource(importlib.import_module(cli.COMMANDS[name].module))
        options = set(re.findall(r'"(--[a-z0-9-]+)"', source))
        assert {word for word in arguments if word.startswith("--")} <= options
        if name in ("train", "test") and not arguments[0].endswith(".py"):
            find_config(arguments[0])
        if name in ("benchmark", "complexity"):
            models = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments))
            assert models and all(map(timm.is_model, models)), f"not all of {models} are models"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_family_and_page_is_listed() -> None:
    readme, models = (ROOT / "README.md").read_text(), (ROOT / "docs/models.md").read_text()
    for name in backbones.list_models("test_*"):
        title = timm.models.model_entrypoint(name).__module__
        family = next(
            m.__name__
            for m in vars(importlib.import_module(title)).values()
            if getattr(m, "__module__", "") == title
            and isinstance(m, type)
            and m.__name__.lower() == title.rpartition(".")[2]
        )
        for page in (readme, models):
            rows = [
                line.split("|")[1].replace("-", "").strip().lower() for line in page.splitlines() if "|" in line[:1]
            ]
            assert family.lower() in rows, f"no row for {family}"
    nav = (ROOT / "mkdocs.yml").read_text()
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")} == set(
        re.findall(r"([\w/]+\.md)$", nav, re.MULTILINE)
    )
