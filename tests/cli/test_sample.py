"""Sampling from the command line: classes, texts, videos, and mistakes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import backbones
from backbones.cli import sample
from tests.tiny_encoders import (
    TEXT_WIDTH,
    awaken,
    write_autoencoder,
    write_text_encoder,
    write_video_autoencoder,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(next(ROOT.glob("configs/ptdit/generation/*digits*.py")))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A checkpoint as training of the digits config writes it, without the training."""
    from mmengine.registry import MODELS, init_default_scope

    from backbones.mm.training import run

    init_default_scope("mmpretrain")
    trainer = MODELS.build(run.load_config(CONFIG).model)
    awaken(trainer.generator)
    path = tmp_path_factory.mktemp("digits") / "iter_1.pth"
    torch.save({"state_dict": trainer.state_dict()}, path)
    return ["--config", CONFIG, "--checkpoint", str(path)]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    write_autoencoder(folder / "vae")
    return str(write_text_encoder(folder))


@pytest.fixture
def text(tmp_path, monkeypatch, encoders):
    """A text-to-image model of two blocks under the name of the smallest, with the released structure and channels."""
    create = backbones.create_model

    def create_tiny(name: str, **options):
        if name != "ptdit_b_text":
            return create(name, **options)
        structure = dict(num_classes=0, text_dim=TEXT_WIDTH, out_chans=8, shared_modulation=True)
        return create("test_ptdit", depth=2, **structure)

    monkeypatch.setattr(backbones, "create_model", create_tiny)
    path = tmp_path / "text.pth"
    torch.save(awaken(create_tiny("ptdit_b_text")).state_dict(), path)
    command = ["--model", "ptdit_b_text", "--checkpoint", str(path), "--steps", "2", "--out-dir", str(tmp_path / "out")]
    return [*command, "--autoencoder", encoders, "--text-encoder", encoders, "--device", "cpu"]


def read(folder: Path, names) -> np.ndarray:
    return np.stack([np.array(Image.open(folder / name), dtype=int) for name in names])


@pytest.mark.mm
def test_classes(digits, tmp_path, capsys):
    command = [*digits, "--labels", "7", "0", "--count", "3", "--steps", "3", "--seed", "5", "--device", "cpu"]
    sample.main([*command, "--out-dir", str(tmp_path / "a")])
    names = ["0000_7.png", "0001_0.png", "0002_7.png", "0003_0.png", "0004_7.png", "0005_0.png"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [*names, "grid.png", "samples.json"]
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "grid.png")
    report = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert report["samples"] == [{"file": name, "of": name[5]} for name in names]
    assert report["settings"]["seed"] == 5 and report["settings"]["guidance"] == 4.0
    with Image.open(tmp_path / "a" / "grid.png") as grid:
        assert grid.size == (2 * 68 + 4, 3 * 68 + 4)

    pixels = read(tmp_path / "a", names)
    assert pixels.shape == (6, 8, 8) and len({p.tobytes() for p in pixels}) == 6
    sample.main([*command, "--out-dir", str(tmp_path / "b"), "--batch-size", "4"])
    assert abs(read(tmp_path / "b", names) - pixels).max() <= 1  # rounding, of very few
    assert (read(tmp_path / "b", names) != pixels).mean() < 0.01
    for i, options in enumerate((["--seed", "6"], ["--guidance", "1"], ["--solver", "dpm"], ["--steps", "4"])):
        sample.main([*command, "--out-dir", str(tmp_path / str(i)), *options])
        assert (read(tmp_path / str(i), names) != pixels).mean() > 0.05, options


@pytest.mark.mm
def test_other_sizes_and_videos(digits, tmp_path):
    command = [*digits, "--labels", "3", "--count", "2", "--steps", "2", "--out-dir", str(tmp_path), "--device", "cpu"]
    sample.main([*command, "--size", "10x16", "--frames", "3", "--fps", "4"])
    with Image.open(tmp_path / "0001_3.gif") as video, Image.open(tmp_path / "grid.gif") as grid:
        assert video.size == (16, 10) and grid.n_frames == video.n_frames == 3
        assert video.info["duration"] == grid.info["duration"] == 250


def test_texts(text, tmp_path):
    command = [*text, "--prompt", "a red seven", "a blue a", "--count", "2", "--size", "16x24"]
    sample.main(command)
    names = [f"{i:04d}.png" for i in range(4)]
    report = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert report["samples"] == [{"file": n, "of": ["a red seven", "a blue a"][i % 2]} for i, n in enumerate(names)]
    pixels = read(tmp_path / "out", names)
    assert pixels.shape == (4, 16, 24, 3) and len({p.tobytes() for p in pixels}) == 4
    sample.main([*command, "--batch-size", "3", "--out-dir", str(tmp_path / "again")])
    assert abs(read(tmp_path / "again", names) - pixels).max() <= 1
    # the first prompt's pictures stay when the second changes
    prompts = ["--prompt", "a red seven", "seven seven"]
    sample.main([*text, *prompts, "--count", "2", "--size", "16x24", "--out-dir", str(tmp_path / "other")])
    differences = abs(read(tmp_path / "other", names) - pixels).max(axis=(1, 2, 3))
    assert differences[[0, 2]].max() <= 1 < differences[[1, 3]].min()


def test_video_of_a_text(text, tmp_path):
    autoencoder = str(write_video_autoencoder(tmp_path / "video"))
    command = [*text, "--prompt", "a red seven", "--count", "1", "--autoencoder", autoencoder]
    sample.main([*command, "--size", "16", "--frames", "5"])
    with Image.open(tmp_path / "out" / "0000.gif") as video:
        assert video.n_frames == 5 and video.size == (16, 16)
    with pytest.raises(SystemExit, match="error: 6 frames: .* 1 more than a multiple of 4"):
        sample.main([*command, "--size", "16", "--frames", "6"])


@pytest.mark.mm
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "3", "10", "-1"], "--labels 10 -1: the classes go from 0 to 9"),
        (["--prompt", "a seven"], "this model draws classes: give --labels from 0 to 9"),
        ([], "this model draws classes"),
        (["--labels", "3", "--size", "9"], "9x9: both sides must be multiples of 2"),
        (["--labels", "3", "--autoencoder", "nowhere/at/all"], "'nowhere/at/all' is no folder"),
        (["--labels", "3", "--checkpoint", "absent.pth"], "absent.pth"),
        (["--labels", "3", "--config", CONFIG + "x"], "no config"),
    ],
)
def test_mistakes_with_classes(digits, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "generate", None)  # nothing may be drawn
    with pytest.raises(SystemExit, match=f"^error: .*{re.escape(message)}"):
        sample.main([*digits, *options])
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "15"], "15x15: both sides must be multiples of 4 (patches of 2 latents of 2 pixels)"),
        ([], "give --size"),
        (["--size", "16", "--labels", "3"], 'this model draws texts: give --prompt "..."'),
        (["--size", "16", "--text-encoder", ""], "--prompt needs --text-encoder"),
        (["--size", "16", "--autoencoder", ""], "name their autoencoder"),
        (["--size", "16", "--model", "van_b0"], "van_b0 draws nothing"),
        (["--size", "16", "--model", "ptdit_b_texts"], "near names: "),
    ],
)
def test_mistakes_with_texts(text, options, message, monkeypatch):
    monkeypatch.setattr(sample, "generate", None)
    with pytest.raises(SystemExit, match=f"^error: .*{re.escape(message)}"):
        sample.main([*text, "--prompt", "a red seven", *options])


def test_text_encoder_of_another_width(text, tmp_path, monkeypatch):
    from transformers import T5Config, T5EncoderModel

    write_text_encoder(tmp_path / "wide")
    config = T5Config(vocab_size=7, d_model=24, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path / "wide" / "text_encoder")
    with pytest.raises(SystemExit, match="states of 24 numbers, the model reads 16"):
        sample.main([*text, "--prompt", "a", "--size", "16", "--text-encoder", str(tmp_path / "wide")])


@pytest.mark.mm
def test_checkpoint_of_another_size(digits, text, tmp_path):
    other = tmp_path / "other.pth"
    torch.save(backbones.create_model("test_ptdit", embed_dim=32).state_dict(), other)
    with pytest.raises(SystemExit, match="error: .*other.pth does not fit"):
        sample.main([*digits, "--labels", "3", "--checkpoint", str(other)])
    with pytest.raises(SystemExit, match="error: "):
        sample.main([*text, "--prompt", "a", "--size", "16", "--checkpoint", str(other)])


def test_model_or_config(capsys):
    for both in ([], ["--config", "a", "--model", "b"]):
        with pytest.raises(SystemExit):
            sample.main(["--checkpoint", "c", *both])
        assert "give either --config or --model" in capsys.readouterr().err
