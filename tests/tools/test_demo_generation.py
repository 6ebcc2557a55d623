"""The generator's demonstration: what it counts as a copy, how it judges, and that its steps fit together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.cli import predict
from backbones.mm.training.digits import read_scans, write_digits
from tools import demo_generation

pytestmark = pytest.mark.mm


@pytest.fixture(scope="module")
def scans():
    return {
        split: torch.from_numpy(np.stack([scan for _, scan, _ in part])).flatten(1).float()
        for split, part in read_scans().items()
    }


def test_copies(scans):
    def share(samples):
        return demo_generation.share_of_copies(samples)["copies_percent"]

    assert share(scans["train"][:50]) == share(scans["train"][:50] + 2) == 100
    assert share(scans["val"]) == pytest.approx(1, abs=0.3)  # by definition
    assert share(255 - scans["val"]) == 0
    report = demo_generation.share_of_copies(scans["val"])
    assert report["median_distance"] == report["median_distance_held_out"] > report["copy_threshold"] > 0


def test_judgement(scans, tmp_path, monkeypatch):
    """Held-out scans in the place of samples, and a reader that is right about two of three."""
    entries = []
    for i, (_, scan, digit) in enumerate(read_scans()["val"][:30]):
        Image.fromarray(scan).save(tmp_path / f"{i}.png")
        entries.append({"file": f"{i}.png", "of": str(digit)})
    (tmp_path / "samples.json").write_text(json.dumps({"samples": entries}))
    asked = torch.tensor([int(entry["of"]) for entry in entries])
    read = torch.where(torch.arange(30) % 3 == 0, (asked + 1) % 10, asked)
    monkeypatch.setattr(predict, "load_timm", lambda model, device: (None, None))
    monkeypatch.setattr(predict, "run", lambda reader, files: torch.nn.functional.one_hot(read, 10).float())
    report = demo_generation.judge(tmp_path, "cpu")
    assert report["samples"] == 30 and report["agreement_percent"] == pytest.approx(66.67, abs=0.01)
    distances = demo_generation.nearest(scans["val"][:30], scans["train"])
    assert report["median_distance"] == pytest.approx(distances.median().item())


@pytest.mark.slow
def test_a_generator_that_has_learnt_nothing_fails(tmp_path, capsys):
    root = write_digits(tmp_path / "digits")
    options = ["model.generator.depth=1", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    options += [f"{part}_dataloader.dataset.data_root={root}" for part in ("train", "val")]
    work_dir = tmp_path / "work"
    assert demo_generation.main(["--work-dir", str(work_dir), "--cfg-options", *options]) == 1
    report = json.loads((work_dir / "report.json").read_text())
    assert report["samples"] == 200 and report["agreement_percent"] < 50 and report["copies_percent"] == 0
    out = capsys.readouterr().out
    assert f"{report['agreement_percent']:.1f} % of 200 samples" in out
    for name in ("drawn/grid.png", "learning_curve.png", "report.json"):
        assert (work_dir / name).exists() and str(work_dir / name) in out
