"""Runs that begin and go on only where that means what the config says."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

import backbones
from backbones.cli import train
from backbones.mm import ZooBackbone
from backbones.mm.training import run, runner
from backbones.mm.training.digits import write_digits
from tests.families.test_van import to_official

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "configs/van/classification/van-test_1xb32-20e_digits-64px.py"


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmpretrain")  # whatever the test before left


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits")


def write_config(folder: Path, root: Path, rest: str = "", images: int = 24) -> str:
    """Two epochs of three iterations of eight images, with averaged weights."""
    loaders = "".join(
        f'{part}_dataloader = dict(dataset=dict(data_root="{root}", indices={images}))\n'
        for part in ("train", "val", "test")
    )
    path = folder / "digits.py"
    path.write_text(
        f'_base_ = "{DIGITS}"\n{loaders}train_dataloader["batch_size"] = 8\n'
        f"train_cfg = dict(max_epochs=2, val_interval=9)\ndefault_hooks = dict(check_data=None)\n{rest}"
    )
    return str(path)


def stopped(*arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        train.main([str(argument) for argument in arguments])
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)
    return str(stop.value)


# Resuming -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_that_has_begun_is_kept(digits, tmp_path):
    """Four batches a step, three an epoch: the first checkpoint is written inside the first step."""
    config = write_config(tmp_path, digits)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main([config, "--work-dir", str(whole), "--accumulate", "4"])
    parts.mkdir()
    shutil.copy(whole / "epoch_1.pth", parts)
    train.main([config, "--work-dir", str(parts), "--accumulate", "4", "--resume"])
    expected, last = (torch.load(folder / "epoch_2.pth", weights_only=False) for folder in (whole, parts))
    for part in ("state_dict", "ema_state_dict"):
        assert all(value.equal(last[part][key]) for key, value in expected[part].items())
    assert torch.load(whole / "epoch_1.pth", weights_only=False)["gradients"].keys() <= expected["state_dict"].keys()
    assert "gradients" not in expected  # the last step is taken with the batches that there are


@pytest.fixture(scope="module")
def checkpoint(digits, tmp_path_factory):
    """A config and the first checkpoint of its run."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, digits)
    init_default_scope("mmpretrain")
    train.main([config, "--work-dir", str(folder / "work")])
    return config, folder / "work/epoch_1.pth"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train_dataloader.batch_size=4"],
         "had 8 images (1 x 8), now 4 (1 x 4): resume with --cfg-options train_dataloader.batch_size=8"),
        (["train_cfg.max_epochs=4"], "param_scheduler[1] (CosineAnnealingLR) had end 6, now 12: train for as many "),
        (["train_dataloader.dataset.indices=32"], "param_scheduler[0] (LinearLR) had end 3, now 4: "),
        (["optim_wrapper.optimizer.lr=0.0005"], "initial_lr was 0.001, is 0.0005: set optim_wrapper.optimizer.lr as"),
        (["optim_wrapper.optimizer.weight_decay=0.1"], "weight_decay was 0.05, is 0.1: set "),
        (["param_scheduler=None"], "there were 2 schedulers, now 0"),
        (["custom_hooks=[]"], "it has averaged weights, which would be taken for the trained ones: add --ema"),
        (["model.backbone.frozen_stages=1"], "freeze and group them as before"),
        (["model.backbone.depths=(1,1,1,2)"], "the model is another one (missing from the checkpoint: backbone.model."),
    ],
)  # fmt: skip
def test_a_run_that_would_not_go_on_as_it_was_stops(options, message, checkpoint, tmp_path):
    config, path = checkpoint
    told = stopped(config, "--work-dir", tmp_path / "work", "--resume", path, "--cfg-options", *options)
    assert told.startswith(f"error: cannot resume from {path}: ") and message in told
    assert told.endswith(f"leave out --resume and add --cfg-options load_from={path}")


@pytest.mark.slow
def test_accumulated_batches_and_processes_are_compared(checkpoint, tmp_path, monkeypatch):
    config, path = checkpoint
    told = stopped(config, "--work-dir", tmp_path / "work", "--resume", path, "--accumulate", "2")
    assert "a step had 1 batches, now 2: resume with --accumulate 1." in told
    monkeypatch.setattr(runner, "get_world_size", lambda: 2)
    told = stopped(config, "--work-dir", tmp_path / "work", "--resume", path)
    assert (
        "an iteration had 8 images (1 x 8), now 16 (2 x 8): resume with --cfg-options train_dataloader.batch_size=4."
        in told
    )
    monkeypatch.setattr(runner, "get_world_size", lambda: 3)
    assert "now 24 (3 x 8): resume with 1 processes." in stopped(
        config, "--work-dir", tmp_path / "work", "--resume", path
    )


@pytest.mark.slow
def test_classes_in_another_order_do_not_resume(checkpoint, tmp_path):
    config, path = checkpoint
    saved = torch.load(path, weights_only=False)
    names = list(saved["meta"]["dataset_meta"]["classes"])
    saved["meta"]["dataset_meta"]["classes"] = names[::-1]
    (tmp_path / "work").mkdir()
    torch.save(saved, tmp_path / "work/epoch_1.pth")
    told = stopped(config, "--work-dir", tmp_path / "work", "--resume")
    assert f"its classes are {', '.join(names[::-1])}, those of the data {', '.join(names)}" in told


@pytest.fixture(autouse=True)
def own_log() -> None:
    """MMEngine names a run by the second it starts in, and a second run of that second writes into the first's log."""
    MMLogger._instance_dict.clear()


# Starting from weights ------------------------------------------------------------------------------------------------


def starting(config: str, path: Path, work_dir: Path, **options) -> torch.nn.Module:
    """The model with which training would start."""
    cfg = run.load_config(config, {"load_from": str(path), "work_dir": str(work_dir), **options})
    built = run.build_runner(cfg)
    built.call_hook("before_run")
    built.load_or_resume()
    return built.model


def test_training_starts_from_any_layout(digits, tmp_path):
    config = write_config(tmp_path, digits)
    source = backbones.create_model("test_van", num_classes=10)
    official = {f"module.{to_official(key)}": value for key, value in source.state_dict().items()}
    torch.save({"model": official}, tmp_path / "a.pth")
    own = starting(config, tmp_path / "a.pth", tmp_path / "work").backbone.model.state_dict()
    assert all(value.equal(own[key]) for key, value in source.state_dict().items())


def test_a_head_for_other_classes_starts_afresh(digits, tmp_path):
    config = write_config(tmp_path, digits)
    source = backbones.create_model("test_van", num_classes=7)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    own = starting(config, tmp_path / "a.pth", tmp_path / "work").backbone.model.state_dict()
    assert own["head.fc.weight"].shape[0] == 10
    assert all(value.equal(own[key]) for key, value in source.state_dict().items() if not key.startswith("head."))
    (log,) = tmp_path.glob("work/*/*.log")
    assert "has not, or in other shapes, 2 of 178 entries, which start afresh: backbone.model" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_litv2", {}, "does not fit test_van: missing from the checkpoint: stem."),
        ("test_van", {"depths": (1, 2, 2, 1)}, "does not fit test_van: it has more blocks, stages.1.blocks.1."),
        ("test_van", {"embed_dims": (16, 32, 64, 96)}, "has shape "),
    ],
)
def test_weights_of_another_model_stop_a_run(name, options, message, digits, tmp_path):
    config = write_config(tmp_path, digits)
    torch.save(backbones.create_model(name, num_classes=10, **options).state_dict(), tmp_path / "a.pth")
    told = stopped(config, "--work-dir", tmp_path / "work", "--cfg-options", f"load_from={tmp_path / 'a.pth'}")
    assert told.startswith(f"error: load_from: {tmp_path / 'a.pth'} does not fit test_van: ") and message in told
    told = stopped(
        config, "--work-dir", tmp_path / "work", "--cfg-options", "model.backbone.init_cfg.type=Pretrained",
        f"model.backbone.init_cfg.checkpoint={tmp_path / 'a.pth'}",
    )  # fmt: skip
    assert message in told


def test_entries_of_detectors_and_generators():
    detector = torch.nn.Module()
    detector.backbone = ZooBackbone("test_van")
    detector.neck = torch.nn.Linear(2, 2)
    file = dict(state_dict=dict(detector.state_dict(), **{"neck.weight": torch.zeros(3, 3)}))
    assert detector.state_dict().keys() - runner.find_entries(detector, file, "a.pth").keys() == {"neck.weight"}

    detector.backbone = torch.nn.Linear(3, 3)  # somebody else's
    with pytest.raises(ValueError, match="a.pth does not fit Module: missing from the checkpoint: backbone.weight"):
        runner.find_entries(detector, file, "a.pth")

    options = dict(model="test_ptdit", in_chans=1, num_classes=10)
    trainer = MODELS.build(dict(type="DiffusionTrainer", generator=options, input_size=(8, 8)))
    found = runner.find_entries(trainer, trainer.generator.state_dict(), "a.pth")
    assert found.keys() == trainer.state_dict().keys()
    with pytest.raises(ValueError, match="a.pth does not fit DiffusionTrainer: missing"):
        runner.find_entries(trainer, backbones.create_model("test_van").state_dict(), "a.pth")


# Batches and schedules ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_last_batch_of_one_image_is_found_before_the_run(digits, tmp_path):
    """At 32 pixels the last maps have one pixel."""
    config = write_config(tmp_path, digits, images=9)
    small = ["train_dataloader.dataset.pipeline.1.scale=32"]
    arguments = [config, "--work-dir", tmp_path / "work", "--cfg-options", *small]
    told = stopped(*arguments)
    assert "the last batch of 9 images in batches of 8 has one image, of which backbone.model.stages.3" in told
    assert "set train_dataloader.drop_last=True, another batch size, or larger images" in told
    told = stopped(*arguments, "train_dataloader.batch_size=1")
    assert "a batch has one image" in told and "set train_dataloader.batch_size=2" in told
    train.main([*map(str, arguments), "train_dataloader.drop_last=True"])
    assert torch.load(tmp_path / "work/epoch_2.pth", weights_only=False)["meta"]["iter"] == 2


@pytest.mark.slow
def test_a_last_batch_of_one_image_with_larger_maps_trains(digits, tmp_path):
    train.main([write_config(tmp_path, digits, images=9), "--work-dir", str(tmp_path / "work")])
    assert (tmp_path / "work/epoch_2.pth").exists()


def test_data_that_make_no_batch_stop_a_run(digits, tmp_path):
    config = write_config(tmp_path, digits, "train_dataloader['drop_last'] = True\n", images=7)
    assert "7 training images of a process make no batch of 8" in stopped(config, "--work-dir", tmp_path / "work")


@pytest.mark.slow
def test_one_epoch_is_all_warm_up(digits, tmp_path):
    train.main(
        [
            write_config(tmp_path, digits),
            "--work-dir",
            str(tmp_path / "work"),
            "--cfg-options",
            "train_cfg.max_epochs=1",
        ]
    )
    assert (tmp_path / "work/epoch_1.pth").exists()
    (log,) = tmp_path.glob("work/*/*.log")
    assert (
        "param_scheduler[1] (CosineAnnealingLR) begins at epoch 1, the end of training: it is left out"
        in log.read_text()
    )


def test_schedules_that_end_before_they_begin(digits, tmp_path):
    config = write_config(tmp_path, digits)
    told = stopped(config, "--work-dir", tmp_path / "work", "--cfg-options", "param_scheduler.1.end=1")
    assert "param_scheduler[1] (CosineAnnealingLR) begins at epoch 1 and ends at 1: set begin below end" in told


@pytest.mark.slow
def test_one_channel_trains(digits, tmp_path):
    rest = (
        "model = dict(backbone=dict(in_chans=1))\n"
        "data_preprocessor = dict(mean=[127.5], std=[127.5], to_rgb=False)\n"
        "train_pipeline = _base_.train_pipeline\ntrain_pipeline[0]['color_type'] = 'grayscale'\n"
        "test_pipeline = _base_.test_pipeline\ntest_pipeline[0]['color_type'] = 'grayscale'\n"
        "train_dataloader['dataset']['pipeline'] = train_pipeline\n"
        "val_dataloader['dataset']['pipeline'] = test_pipeline\n"
    )
    train.main([write_config(tmp_path, digits, rest), "--work-dir", str(tmp_path / "work")])
    saved = torch.load(tmp_path / "work/epoch_2.pth", weights_only=False)["state_dict"]
    assert saved["backbone.model.stem.proj.weight"].shape[1] == 1
