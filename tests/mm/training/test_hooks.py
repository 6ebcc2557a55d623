"""Safe files, checked data and losses, learning curves, precision."""

import json
import resource
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn

from backbones.mm.training import hooks

pytestmark = pytest.mark.mm


def test_interrupted_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "epoch_1.pth"
    save_checkpoint({"epoch": 1}, str(path), backend_args=dict(backend="atomic"))
    assert torch.load(path) == {"epoch": 1}

    def die(self, obj, filepath):
        with open(filepath, "wb") as file:
            file.write(obj[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBackend, "put", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint({"epoch": 2}, str(path), backend_args=dict(backend="atomic"))
    assert torch.load(path) == {"epoch": 1}


def test_full_disk_is_said_and_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "epoch_1.pth"
    save_checkpoint({"epoch": 1}, str(path), backend_args=dict(backend="atomic"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # files end here, as they do on a full disk
    try:
        with pytest.raises(hooks.RunStopped, match=r"cannot write .*epoch_1.pth \(4 MB\): .* intact.*--resume"):
            save_checkpoint({"weights": torch.zeros(10**6)}, str(path), backend_args=dict(backend="atomic"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


def test_little_room_stops_a_run_before_it_starts(tmp_path, monkeypatch):
    model = nn.Linear(1000, 1000, bias=False)  # 4 MB, with two moments 12 MB
    checkpoints = hooks.CheckpointHook(max_keep_ckpts=2)
    runner = SimpleNamespace(hooks=[checkpoints], model=model, work_dir=str(tmp_path), cfg={})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=36_000_000))
    hooks.CheckSpaceHook().before_train(runner)
    runner.hooks.append(hooks.EMAHook())
    with pytest.raises(hooks.RunStopped, match="has 36 MB free, the checkpoints need 48 MB"):
        hooks.CheckSpaceHook().before_train(runner)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_with_the_iteration(value, tmp_path):
    runner = SimpleNamespace(iter=41, work_dir=str(tmp_path))
    hook = hooks.FiniteLossHook()
    outputs = dict(loss=torch.tensor(2.0), loss_cls=torch.tensor(1.0))
    hook.after_train_iter(runner, 41, outputs=outputs)
    assert outputs["loss"] == 2
    with pytest.raises(hooks.RunStopped, match=f"the loss is {value} at iteration 42. No checkpoint was written yet"):
        hook.after_train_iter(runner, 41, outputs=dict(loss=torch.tensor(value)))
    (tmp_path / "iter_40.pth").touch()
    weights = dict(steps=torch.tensor(3), good=torch.zeros(2), bad=torch.tensor([0.0, value]))
    with pytest.raises(hooks.RunStopped, match=r"1 weights are not finite \(bad\) .*good checkpoint is .*iter_40.pth"):
        hook.before_save_checkpoint(runner, dict(state_dict=weights))


def test_resumed_run_continues_its_curves(tmp_path):
    first = [dict(loss=2.0, step=10, lr=1e-3), {"accuracy/top1": 50.0, "step": 1}, dict(loss=1.5, step=20)]
    second = [dict(loss=1.6, step=20), {"accuracy/top1": 70.0, "time": 0.1, "step": 2}]
    for name, lines in (("20260101_1", first), ("20260102_1", second)):
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text("\n".join(map(json.dumps, lines)))
    losses, metrics = hooks.read_scalars(tmp_path)
    assert losses == {10: 2.0, 20: 1.6}
    assert metrics == {"accuracy/top1": {1: 50.0, 2: 70.0}}
    picture = hooks.draw_learning_curve(tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert hooks.draw_learning_curve(tmp_path / "empty") is None


def test_only_metrics_of_all_objects_are_drawn():
    names = ["coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_s", "coco/segm_mAP_l", "mIoU", "accuracy/top1"]
    assert hooks.drawn_metrics(names) == ["coco/bbox_mAP", "coco/bbox_mAP_50", "mIoU", "accuracy/top1"]


def test_bfloat16_wrapper_computes_in_bfloat16_and_steps_in_float32():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert OptimWrapper in hooks.BFloat16OptimWrapper.__mro__
    wrapper = hooks.BFloat16OptimWrapper(optimizer)
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().mean())
    assert model.weight.dtype == torch.float32 and not model.weight.equal(before)
    assert model(torch.ones(2, 4)).dtype == torch.float32


def test_two_stage_detectors_have_only_maps_in_bfloat16():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.roi_head = nn.Linear(4, 4), nn.Linear(4, 4)

        def extract_feat(self, x):
            self.computed = self.backbone(x)
            return (self.computed,)

    model = Detector()
    wrapper = hooks.BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        (maps,) = model.extract_feat(torch.ones(2, 4))
        assert model.computed.dtype == torch.bfloat16 and maps.dtype == torch.float32
        assert model.roi_head(maps).dtype == torch.float32
    assert model.extract_feat(torch.ones(2, 4))[0].dtype == torch.float32 and model.computed.dtype == torch.float32
