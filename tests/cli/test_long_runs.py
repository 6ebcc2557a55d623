"""Runs of all three tasks: options, kills, several processes, and what stops a run.

The options are those of the commands in docs/long_runs.md.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from backbones.cli import test, train
from backbones.mm.training.digits import write_digits
from tests.dense_data import write_dense_data, write_detection_config, write_segmentation_config

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "configs/van/classification/van-test_1xb32-20e_digits-64px.py"


PAGE = (ROOT / "docs/long_runs.md").read_text()
COMMANDS = re.findall(
    r"^.*backbones train (?:\S+) ?(.*)$", "\n".join(re.findall("```bash\n(.*?)```", PAGE, re.DOTALL)), re.M
)
# What the tests below run.
TRIED = [
    "--work-dir work_dirs/run",
    "--work-dir work_dirs/run --resume",
    "--launcher pytorch",
    "--launcher pytorch --sharded",
    "--accumulate 4 --auto-scale-lr",
    "--amp",
    "--amp float16",
    "--ema 0.0002",
    "--compile",
]


def test_every_command_of_the_page_is_tried():
    assert COMMANDS == TRIED


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_dense_data(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits")


def write_digits_config(path: Path, root: Path, rest: str = "") -> str:
    """Three epochs of two iterations, with everything that draws random numbers: workers, Mixup, drop path."""
    loaders = "".join(
        f'{part}_dataloader = dict(dataset=dict(data_root="{root}", indices=64))\n' for part in ("train", "val", "test")
    )
    path.write_text(
        f'_base_ = "{DIGITS}"\n{loaders}model = dict(backbone=dict(drop_path_rate=0.2))\n'
        f"train_cfg = dict(max_epochs=3)\ndefault_hooks = dict(logger=dict(interval=1))\n{rest}"
    )
    return str(path)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=False)


def log_of(work_dir: Path) -> str:
    return "".join(path.read_text() for path in sorted(work_dir.glob("*/*.log")))


def scalars_of(work_dir: Path) -> list[dict]:
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def assert_same_run(left: dict, right: dict) -> None:
    """Two checkpoints have the same weights, averages and moments, to the bit."""
    for part in ("state_dict", "ema_state_dict"):
        assert left.get(part, {}).keys() == right.get(part, {}).keys()
        assert all(value.equal(right[part][key]) for key, value in left.get(part, {}).items())
    moments = zip(left["optimizer"]["state"].values(), right["optimizer"]["state"].values())
    assert all(a[name].equal(b[name]) for a, b in moments for name in a)


# Three tasks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_detector_with_averages_and_accumulated_steps(scenes, tmp_path):
    content = json.loads((scenes / "objects.json").read_text())
    content["annotations"][0]["bbox"] = [500.0, 500.0, 20.0, 20.0]
    (scenes / "outside.json").write_text(json.dumps(content))
    extra = (
        'auto_scale_lr = dict(base_batch_size=16)\ntrain_dataloader["dataset"]["ann_file"] = "outside.json"\n'
        'train_dataloader["batch_sampler"] = dict(type="AspectRatioBatchSampler")\n'
        'model["test_cfg"] = dict(score_thr=0.0)\n'  # one step has learnt nothing to be sure of
    )
    config = write_detection_config(tmp_path / "retinanet.py", scenes, "retinanet", extra=extra)
    work = tmp_path / "work"
    train.main([config, "--work-dir", str(work), "--accumulate", "4", "--auto-scale-lr", "--ema", "0.0002"])

    last, log = load(work / "iter_4.pth"), log_of(work)
    assert {int(state["step"]) for state in last["optimizer"]["state"].values()} == {1}
    assert "Scaling the original LR by 0.5" in log  # two images, four batches a step, for sixteen
    assert "outside.json: 1 objects outside their image are left out" in log
    assert (work / "learning_curve.png").stat().st_size > 5000
    (events,) = work.glob("*/vis_data/events.out.tfevents.*")
    assert b"loss_bbox" in events.read_bytes() and b"coco/bbox_mAP" in events.read_bytes()

    # what is saved is what was evaluated: the averages
    averages = {k.removeprefix("module."): v for k, v in last["ema_state_dict"].items()}
    assert any(not averages[key].equal(value) for key, value in last["state_dict"].items())
    logged = next(entry for entry in scalars_of(work) if "coco/bbox_mAP" in entry)
    metrics = test.main([config, str(work / "iter_4.pth"), "--work-dir", str(tmp_path / "test")])
    assert metrics == pytest.approx({name: logged[name] for name in metrics}, abs=2e-3)


@pytest.mark.slow
def test_two_stage_detector_in_mixed_precision(scenes, tmp_path):
    config = write_detection_config(tmp_path / "mask.py", scenes, "mask-rcnn", masks=True)
    train.main([config, "--work-dir", str(tmp_path / "work"), "--amp", "--cfg-options", "train_cfg.max_iters=2"])
    losses = [entry for entry in scalars_of(tmp_path / "work") if "loss_mask" in entry]
    assert len(losses) == 2 and all(0 < entry["loss_mask"] < 10 for entry in losses)


@pytest.mark.slow
def test_segmenter_resumes_between_two_evaluations_as_if_nothing_had_been(scenes, tmp_path):
    extra = 'train_dataloader["num_workers"] = 1\nrandomness = dict(seed=None)\n'
    config = write_segmentation_config(tmp_path / "semfpn.py", scenes, extra=extra)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main([config, "--work-dir", str(whole)])
    parts.mkdir()
    shutil.copy(whole / "iter_2.pth", parts)
    train.main([config, "--work-dir", str(parts), "--resume", "--cfg-options", "train_dataloader.num_workers=0"])
    assert "resumed epoch: 0, iter: 2" in log_of(parts)
    assert_same_run(load(whole / "iter_4.pth"), load(parts / "iter_4.pth"))

    metrics = test.main([config, str(parts / "iter_4.pth"), "--work-dir", str(tmp_path / "test")])
    logged = next(entry for entry in scalars_of(parts) if "mIoU" in entry)
    assert metrics["mIoU"] == pytest.approx(logged["mIoU"]) and logged["step"] == 4


@pytest.mark.slow
def test_compiled_backbone_trains(digits, tmp_path, monkeypatch):
    # tracing and training are tested; generating code takes a minute
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = write_digits_config(tmp_path / "digits.py", digits, "train_cfg['max_epochs'] = 2\n")
    train.main([config, "--work-dir", str(tmp_path), "--compile"])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    # names of weights are as ever
    metrics = test.main([config, str(tmp_path / "epoch_2.pth"), "--work-dir", str(tmp_path)])
    assert metrics["accuracy/top1"] == pytest.approx(scalars_of(tmp_path)[-1]["accuracy/top1"])


# Kills and several processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_training_resumes_and_ends_with_the_same_weights(digits, tmp_path):
    rest = "train_dataloader.update(num_workers=2, persistent_workers=True)\ntrain_cfg['max_epochs'] = 4\n"
    config = write_digits_config(tmp_path / "digits.py", digits, rest)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    command = [sys.executable, "-m", "backbones", "train", config, "--work-dir", str(killed), "--resume"]
    with open(tmp_path / "first.log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 300
            while not (killed / "epoch_1.pth").exists():
                assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()[-3000:]
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL and not (killed / "epoch_4.pth").exists()

    train.main([config, "--work-dir", str(killed), "--resume"])
    assert re.search(r"resumed epoch: [1-3], iter: \d+", log_of(killed))
    train.main([config, "--work-dir", str(whole)])
    last = load(killed / "epoch_4.pth")
    assert (last["meta"]["epoch"], last["meta"]["iter"]) == (4, 8)
    assert_same_run(last, load(whole / "epoch_4.pth"))
    assert sorted(p.name for p in killed.glob("epoch_*")) == ["epoch_3.pth", "epoch_4.pth"]
    assert (killed / "learning_curve.png").exists()


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """A config without what differs between processes (Mixup, drop path, BatchNorm), and its run in one."""
    folder = tmp_path_factory.mktemp("plain")
    rest = (
        "model['backbone'].update(drop_path_rate=0.0, norm_eval=True)\nmodel['train_cfg'] = None\ncustom_hooks = []\n"
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01))\n"
    )
    config = write_digits_config(folder / "digits.py", digits, rest)
    train.main([config, "--work-dir", str(folder / "one")])
    return config, folder / "one"


def train_in_two_processes(config: str, work_dir: Path, *options: str) -> None:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={20000 + os.getpid() % 20000}"]
    command = [sys.executable, *launch, "-m", "backbones", "train", config, "--work-dir", str(work_dir)]
    command += ["--launcher", "pytorch", *options, "--cfg-options", "train_dataloader.batch_size=16"]
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=work_dir.parent, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--sharded"]], ids=["replicated", "sharded"])
def test_two_processes_do_what_one_does(options, plain, tmp_path):
    config, one = plain
    two = tmp_path / "two"
    train_in_two_processes(config, two, *options)
    losses, expected = ([entry["loss"] for entry in scalars_of(run) if "loss" in entry] for run in (two, one))
    assert len(losses) == 6 and losses == pytest.approx(expected, rel=1e-4)
    last, reference = load(two / "epoch_3.pth"), load(one / "epoch_3.pth")
    for key, value in reference["state_dict"].items():
        torch.testing.assert_close(last["state_dict"][key], value, rtol=1e-3, atol=1e-5)
    # what two processes began, one ends: the checkpoint is like any other
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(two / "epoch_2.pth", resumed)
    train.main([config, "--work-dir", str(resumed), "--resume"])
    for key, value in load(resumed / "epoch_3.pth")["state_dict"].items():
        torch.testing.assert_close(value, reference["state_dict"][key], rtol=1e-3, atol=1e-5)


# What stops a run -----------------------------------------------------------------------------------------------------


@HOOKS.register_module()
class SpoilWeights(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 5:
            next(runner.model.parameters()).data.fill_(float("nan"))


@pytest.mark.slow
def test_run_stops_at_the_iteration_that_has_no_loss(digits, tmp_path):
    rest = "custom_hooks = [dict(type='SpoilWeights')]\ntrain_cfg['max_epochs'] = 9\n"
    config = write_digits_config(tmp_path / "digits.py", digits, rest)
    with pytest.raises(SystemExit, match=r"error: the loss is nan at iteration 6\. .*good checkpoint is .*epoch_2.pth"):
        train.main([config, "--work-dir", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]
    assert all(value.isfinite().all() for value in load(tmp_path / "epoch_2.pth")["state_dict"].values())


def break_maps(root: Path) -> None:
    from PIL import Image

    Image.new("L", (96, 64), 7).save(root / "maps/3.png")
    (root / "maps/4.png").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_maps, r"2 label maps cannot be used.*\n.*3.png: labels 7 are of no class.*\n.*4.png: is missing"),
        (lambda root: (root / "images/2.png").write_bytes(b""), r"1 of 5 images cannot be read.*\n.*2.png: empty file"),
    ],
)
def test_bad_data_is_listed_before_training(spoil, message, tmp_path):
    root = write_dense_data(tmp_path / "scenes")
    config = write_segmentation_config(tmp_path / "semfpn.py", root)
    spoil(root)
    with pytest.raises(SystemExit) as stop:
        train.main([config, "--work-dir", str(tmp_path / "work")])
    assert re.match(f"error: {message}", str(stop.value)) and not list((tmp_path / "work").glob("*.pth"))


@pytest.mark.slow
def test_a_detector_trains_and_is_tested_on_annotations_that_need_mending(tmp_path):
    """Turned photographs, categories in another order, no areas, a box of text: the run goes on with the rest."""
    from PIL import Image, ImageOps

    root = write_dense_data(tmp_path / "scenes")
    for path in (root / "images").glob("*.png"):
        exif = Image.Exif()
        exif[0x0112] = 6  # shown as it was
        with Image.open(path) as image:
            image.rotate(90, expand=True).save(path, exif=exif)
    content = json.loads((root / "objects.json").read_text())
    content["categories"].reverse()
    for entry in content["annotations"]:
        del entry["area"]
    content["annotations"].append(dict(content["annotations"][0], id=99, bbox=["left", 0, 1, 1]))
    (root / "objects.json").write_text(json.dumps(content))
    config = write_detection_config(tmp_path / "retinanet.py", root, "retinanet")
    train.main([config, "--work-dir", str(tmp_path / "work")])
    log = next((tmp_path / "work").glob("*/*.log")).read_text()
    for warning in (
        "10 objects lack an area, which is computed",
        "1 objects whose box is not of numbers are left out (first: annotation 99)",
        "its categories stand in another order than the classes, and are matched by name",
    ):
        assert warning in log
    test.main([config, str(tmp_path / "work/iter_4.pth"), "--work-dir", str(tmp_path / "test")])

    with Image.open(root / "images/2.png") as image:
        ImageOps.exif_transpose(image).rotate(90, expand=True).save(root / "images/2.png")
    with pytest.raises(SystemExit, match=r"1 of 5 images have another size.*\n.*2.png: 64x96 pixels, 96x64 in"):
        train.main([config, "--work-dir", str(tmp_path / "again")])


@pytest.mark.slow
def test_classes_are_counted_in_the_data(digits, tmp_path):
    rest = "model['backbone']['num_classes'] = 7\ndata_preprocessor = dict(num_classes=7)\n"
    config = write_digits_config(tmp_path / "digits.py", digits, rest)
    with pytest.raises(
        SystemExit, match="error: model.backbone.num_classes is 7, but CustomDataset has 10 classes: set"
    ):
        train.main([config, "--work-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--amp", "float16"], "--amp float16 needs a GPU: use --amp bfloat16"),
        (["--ema", "1"], "--ema 1.0: .* between 0 and 1"),
        (["--auto-scale-lr"], r"does not say for which batch size .*auto_scale_lr=dict\(base_batch_size=N\)"),
        (["--sharded"], "--sharded divides a model among processes: start them with torchrun"),
        (["--sharded", "--launcher", "pytorch"], "leave EMAHook out of custom_hooks"),
        (["--work-dir", "digits.py/work"], "cannot write to 'digits.py/work'.*name another --work-dir"),
        (["--seed", "5", "--resume", "seed-7.pth"], "seed-7.pth is of a run with seed 7, not 5: resume with --seed 7"),
    ],
)
def test_options_that_cannot_be_followed(options, message, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.save(dict(meta=dict(seed=7), state_dict={}), "seed-7.pth")
    with pytest.raises(SystemExit) as stop:
        train.main([write_digits_config(Path("digits.py"), digits), *options])
    assert re.match(f"error: .*{message}", str(stop.value)) and "\n" not in str(stop.value)


def test_float16_scales_the_loss(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    seen = []
    monkeypatch.setattr(train, "check_config", lambda cfg: seen.append(cfg) or sys.exit())
    with pytest.raises(SystemExit):
        train.main([write_digits_config(tmp_path / "digits.py", digits), "--amp", "float16"])
    assert (seen[0].optim_wrapper.type, seen[0].optim_wrapper.dtype) == ("AmpOptimWrapper", "float16")
