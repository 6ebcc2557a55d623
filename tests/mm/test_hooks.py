"""Safe files, learning curves, precision."""

import json

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn

from backbones.mm import hooks

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
