"""Training generators: the model wrapper, latents, pictures on the way, resuming, and the configs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from PIL import Image

from backbones.cli import train
from backbones.mm.training import run
from backbones.mm.training.diffusion import DiffusionTrainer, FlowLoss, LatentImages, SampleGridHook
from backbones.mm.training.digits import write_digits
from backbones.mm.training.hooks import RunStopped, read_scalars
from tests.tiny_encoders import write_video_autoencoder

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(ROOT.glob("configs/ptdit/generation/*.py"))
DIGITS = next(path for path in CONFIGS if "digits" in path.stem)

TINY = dict(model="test_ptdit", in_chans=1, num_classes=10, depth=1, window_size=(1, 2, 2))


def batch(count: int, size: int = 8):
    return torch.randn(count, 1, size, size), [DataSample().set_gt_label(i % 10) for i in range(count)]


def test_loss_of_a_model_that_predicts_nothing():
    """The last layer starts at zero, so the loss is the mean square of data - noise, 2."""
    torch.manual_seed(0)
    trainer = DiffusionTrainer(TINY, (8, 8))
    loss = trainer(*batch(512), mode="loss")["loss"]
    assert loss.item() == pytest.approx(2, rel=0.05)
    loss.backward()
    assert trainer.generator.head.proj.weight.grad.abs().max() > 0


def test_classes_are_hidden_in_training_only(monkeypatch):
    seen = []
    trainer = DiffusionTrainer(TINY, (8, 8), drop_rate=0.5)
    monkeypatch.setattr(trainer, "_losses", lambda data, noise, times, labels: seen.append(labels) or data[:, 0, 0, 0])
    inputs, samples = batch(1000)
    trainer(inputs, samples, mode="loss")
    trainer(inputs, samples, mode="predict")
    assert (seen[0] == 10).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert seen[1].tolist() == [i % 10 for i in range(1000)]


def test_evaluation_is_always_the_same():
    trainer = DiffusionTrainer(TINY, (8, 8)).eval()
    torch.nn.init.normal_(trainer.generator.head.proj.weight)
    data = batch(6)
    first, second = (trainer(*data, mode="predict") for _ in range(2))
    assert first == second and len(set(first)) == 6
    metric = FlowLoss()
    metric.process({}, first[:4])
    metric.process({}, first[4:])
    assert metric.evaluate(6) == {"flow_loss": pytest.approx(np.mean(first))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(drop_rate=1.0), "drop_rate is 1.0"),
        (dict(shift=0), "shift is 0"),
        (dict(input_size=(8, 7)), "8x7: both sides must be multiples of 2"),
        (dict(generator=dict(TINY, model="test_van", depth=None)), "test_van|depth"),
        (dict(generator=dict(TINY, num_classes=0)), "no generator with classes"),
        (dict(generator=dict(TINY, model="test_ptdit_")), "did you mean"),
    ],
)
def test_mistakes_in_a_config(options, message):
    cfg = run.load_config(DIGITS)
    cfg.model.update(options)
    with pytest.raises(ValueError, match=message):
        run.check_config(cfg)


def test_data_of_another_size():
    with pytest.raises(RunStopped, match=r"the data are \(1, 16, 16\), but the model generates \(1, 8, 8\)"):
        DiffusionTrainer(TINY, (8, 8))(*batch(2, size=16))


# Latents --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def latents(tmp_path):
    root = tmp_path / "latents"
    (root / "train").mkdir(parents=True)
    (root / "latents.json").write_text(json.dumps({"classes": ["cat", "dog"], "size": 16}))
    for i, (name, count) in enumerate({"cat": 3, "dog": 5}.items()):
        mean = np.arange(count, dtype=np.float16).reshape(-1, 1, 1, 1) + 10 * i
        moments = np.concatenate([np.broadcast_to(mean, (count, 4, 8, 8)), np.full((count, 4, 8, 8), 0.5)], axis=1)
        np.save(root / "train" / f"{name}.npy", moments.astype(np.float16))
    return root


def test_latents_are_drawn_from_their_distribution(latents):
    fixed = LatentImages(str(latents), "train", test_mode=True)
    assert len(fixed) == 8 and fixed.metainfo["classes"] == ["cat", "dog"]
    assert [fixed[i]["inputs"].unique().item() for i in range(8)] == [0, 1, 2, 10, 11, 12, 13, 14]
    assert [fixed[i]["data_samples"].gt_label.item() for i in range(8)] == [0, 0, 0, 1, 1, 1, 1, 1]
    torch.manual_seed(0)
    drawn = LatentImages(str(latents), "train")
    values = torch.stack([drawn[3]["inputs"] for _ in range(20)])
    assert values.shape == (20, 4, 8, 8)
    assert values.mean().item() == pytest.approx(10, abs=0.05) and values.std().item() == pytest.approx(0.5, abs=0.05)


def test_latents_that_are_missing(latents):
    (latents / "train" / "dog.npy").unlink()
    with pytest.raises(RunStopped, match="1 classes lack .*dog.npy first: run `backbones encode-latents` again"):
        LatentImages(str(latents), "train")
    with pytest.raises(RunStopped, match="write them with `backbones encode-latents`"):
        LatentImages(str(latents / "train"), "train")


# Runs -----------------------------------------------------------------------------------------------------------------


def options(root: Path, iterations: int) -> list[str]:
    chosen = {
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": 2,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
        "default_hooks.sample_grid.steps": 2,
        "train_dataloader.batch_size": 16,
        "train_dataloader.dataset.data_root": root,
        "val_dataloader.dataset.data_root": root,
        "val_dataloader.dataset.indices": 30,
        "model.generator.depth": 1,
    }
    return ["--cfg-options", *(f"{key}={value}" for key, value in chosen.items())]


@pytest.mark.slow
def test_training_draws_pictures_and_resumes_to_the_bit(tmp_path):
    root = write_digits(tmp_path / "digits")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main([str(DIGITS), "--work-dir", str(whole), *options(root, 4)])
    train.main([str(DIGITS), "--work-dir", str(parts), *options(root, 4)])
    (parts / "iter_4.pth").unlink()
    train.main([str(DIGITS), "--work-dir", str(parts), "--resume", *options(root, 4)])
    ends = [torch.load(folder / "iter_4.pth", weights_only=False) for folder in (whole, parts)]
    for part in ("state_dict", "ema_state_dict"):
        for key, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][key]), key
    averaged, latest = (ends[0][part] for part in ("state_dict", "ema_state_dict"))
    key = "generator.head.proj.weight"
    assert 0 < averaged[key].abs().max() < latest[f"module.{key}"].abs().max()  # both started at zero

    for iteration in (2, 4):
        with Image.open(whole / "samples" / f"{iteration:07d}.png") as grid:
            assert grid.size == (10 * 68 + 4, 8 * 68 + 4)
    assert (whole / "learning_curve.png").exists()
    losses, metrics = read_scalars(whole)
    assert set(losses) == {1, 2, 3, 4} and set(metrics["flow_loss"]) == {2, 4}


class Runner:
    """What the hook asks of MMEngine's."""

    def __init__(self, model, work_dir):
        self.model, self.work_dir, self.iter, self.pictures = model, work_dir, 3, []
        self.visualizer = self

    def add_image(self, name, picture, step):
        self.pictures.append((name, picture, step))


def test_latents_are_decoded_for_pictures(tmp_path):
    generator = dict(model="test_ptdit", in_chans=4, num_classes=3, depth=1)
    runner = Runner(DiffusionTrainer(generator, (4, 6)), tmp_path)
    hook = SampleGridHook(rows=2, steps=1, autoencoder=str(write_video_autoencoder(tmp_path / "vae")))
    hook.before_train(runner)
    hook.before_val_epoch(runner)
    with Image.open(tmp_path / "samples" / "0000003.png") as grid:  # 16 x 24 pixels, shown three times as large
        assert grid.size == (3 * 76 + 4, 2 * 52 + 4) and grid.mode == "RGB"
    assert runner.pictures[0][0] == "samples" and runner.pictures[0][1].shape[2] == 3
    assert runner.model.training


def test_pictures_that_cannot_be_drawn_stop_the_run(tmp_path):
    runner = Runner(DiffusionTrainer(dict(model="test_ptdit", num_classes=3, depth=1), (4, 4)), tmp_path)
    with pytest.raises(RunStopped, match="cannot draw samples: .*name their autoencoder"):
        SampleGridHook().before_train(runner)
    with pytest.raises(RunStopped, match="cannot draw samples: .*neither vae/config.json"):
        SampleGridHook(autoencoder=str(tmp_path)).before_train(runner)


# Configs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_what_its_name_says(path):
    cfg = run.load_config(path)
    run._check_generator(cfg.model)
    run._check_intervals(cfg)
    name, devices, size, thousands = re.match(r"(ptdit-\w+?)_(\d+)xb(\d+)-(\d+)k_", path.stem).groups()
    family, variant = name.split("-")
    assert cfg.model.generator.model in (f"{family}_{variant}_class", f"{variant}_{family}")
    assert cfg.train_dataloader.batch_size == int(size) and cfg.train_cfg.max_iters == 1000 * int(thousands)
    if "auto_scale_lr" in cfg:
        assert cfg.auto_scale_lr.base_batch_size == int(devices) * int(size)
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0  # the last checkpoint has its picture
    side = int(re.search(r"-(\d+)px", path.stem)[1])
    stride = 8 if "autoencoder" in cfg else 1
    assert cfg.model.input_size == (side // stride, side // stride)
    text = path.read_text()
    assert "Run:" in text
    if "in1k" in path.stem:
        assert re.search(r"Source: arXiv:\d{4}\.\d{5}.*paper: ", text) and "Here: not trained" in text
