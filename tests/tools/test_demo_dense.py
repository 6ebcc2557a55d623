"""The demonstrations of detection and segmentation, shortened."""

import re

import pytest
import torch
from PIL import Image

from backbones.mm.training.digit_scenes import write_digit_scenes
from tools import demo_dense

pytestmark = [pytest.mark.mm, pytest.mark.slow]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=16, val=3)


@pytest.mark.parametrize("task", demo_dense.TASKS)
def test_demo_trains_evaluates_and_draws(task, scenes, tmp_path, capsys):
    iterations = 12
    options = {
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": iterations,
        "train_dataloader.batch_size": 4,
        "default_hooks.checkpoint.interval": iterations,
        "default_hooks.logger.interval": 1,
    }
    options |= {f"{part}_dataloader.dataset.data_root": scenes for part in ("train", "val", "test")}
    if task == "detection":
        options |= {f"{part}_evaluator.ann_file": scenes / "annotations/val.json" for part in ("val", "test")}
    arguments = ["--work-dir", str(tmp_path), "--cfg-options", *(f"{key}={value}" for key, value in options.items())]
    code = demo_dense.main([task, *arguments, "--min-metric", "101"])
    assert code == 1  # nothing reaches 101 %

    log = "".join(path.read_text() for path in tmp_path.glob("*/*.log"))  # of training and of testing
    losses = [float(x) for x in re.findall(r"Iter\(train\).* loss: ([\d.]+)", log)]
    assert len(losses) == iterations and sum(losses[-3:]) < 0.98 * sum(losses[:3])
    metric = demo_dense.TASKS[task][1]
    printed = capsys.readouterr().out
    assert 0 <= float(re.search(rf"{metric} on held-out scenes: ([\d.]+) %", printed)[1]) <= 100
    for name in ("learning_curve.png", "predictions.png", "pictures", f"iter_{iterations}.pth"):
        assert f"{tmp_path / name}" in printed.splitlines() and (tmp_path / name).exists()
    assert torch.load(tmp_path / f"iter_{iterations}.pth", weights_only=False)["meta"]["iter"] == iterations
    # truth beside prediction, one picture a scene
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["0000.png", "0001.png", "0002.png"]
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (2 * 384, 288)
