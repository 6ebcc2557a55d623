"""What every run of the zoo has besides MMEngine's own hooks: safe files, checked images, a learning curve."""

import contextlib
import json
import os
from pathlib import Path

import torch
from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from backbones.images import find_bad_images

__all__ = [
    "AtomicBackend",
    "BFloat16OptimWrapper",
    "CheckImagesHook",
    "LearningCurveHook",
    "UnreadableImages",
    "read_scalars",
]


@register_backend("atomic", force=True)
class AtomicBackend(LocalBackend):
    """Local files that appear complete or not at all: a run killed while it saves leaves no half checkpoint.

    ``CheckpointHook(backend_args=dict(backend="atomic"))``.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        partial = f"{filepath}.partial-{os.getpid()}"
        super().put(obj, partial)
        os.replace(partial, filepath)


class UnreadableImages(ValueError):
    """Images that training would stumble over."""


@HOOKS.register_module()
class CheckImagesHook(Hook):
    """Read every image of the training and validation sets once before the first iteration.

    Costs a minute a million small files on a fast disk; ``default_hooks=dict(check_images=None)`` turns it off.

    Raises:
        UnreadableImages: some cannot be read; the message lists them.
    """

    def before_train(self, runner) -> None:
        message: list[str | None] = [None]
        if is_main_process():
            loaders = [runner.train_dataloader, getattr(runner.val_loop, "dataloader", None)]
            files = sorted({file for loader in loaders if loader for file in _image_files(loader.dataset)})
            if bad := find_bad_images(files, progress="checking images"):
                lines = [f"{len(bad)} of {len(files)} images cannot be read, remove or replace:"]
                lines += [f"  {file}: {reason}" for file, reason in list(bad.items())[:50]]
                if len(bad) > 50:
                    lines.append(f"  ... and {len(bad) - 50} more")
                message = ["\n".join(lines)]
        broadcast_object_list(message)
        if message[0]:
            raise UnreadableImages(message[0])


def _image_files(dataset) -> list[str]:
    """Paths in a dataset of any of the OpenMMLab libraries, wrappers (repeat, concat, class balance) opened."""
    for inner in ("dataset", "datasets"):
        if hasattr(dataset, inner):
            nested = getattr(dataset, inner)
            return [f for d in (nested if isinstance(nested, (list, tuple)) else [nested]) for f in _image_files(d)]
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    return [str(info["img_path"]) for info in infos if "img_path" in info]


@HOOKS.register_module()
class LearningCurveHook(Hook):
    """Draw training loss and validation metrics into ``work_dir/learning_curve.png`` after each validation."""

    priority = "VERY_LOW"  # after the logger has written its numbers

    @master_only
    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        draw_learning_curve(runner.work_dir)

    @master_only
    def after_train(self, runner) -> None:
        draw_learning_curve(runner.work_dir)


def read_scalars(work_dir: str | os.PathLike) -> tuple[dict[int, float], dict[str, dict[int, float]]]:
    """Logged loss by iteration, and each validation metric by its step; a resumed run continues the same curves."""
    losses: dict[int, float] = {}
    metrics: dict[str, dict[int, float]] = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if "loss" in entry:
                losses[entry["step"]] = entry["loss"]
                continue
            for name, value in entry.items():
                if name not in ("step", "time", "data_time") and isinstance(value, (int, float)):
                    metrics.setdefault(name, {})[entry["step"]] = value
    return losses, metrics


def draw_learning_curve(work_dir: str | os.PathLike) -> Path | None:
    """Write ``learning_curve.png`` from what the run has logged; None while there is nothing to draw."""
    from matplotlib.figure import Figure

    losses, metrics = read_scalars(work_dir)
    if not losses and not metrics:
        return None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(losses), list(losses.values()))
    left.set(title="training loss", xlabel="iteration", yscale="log")
    for name, points in metrics.items():
        right.plot(list(points), list(points.values()), marker=".", label=name)
    right.set(title="validation", xlabel="epoch or iteration")
    if metrics:
        right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    path = Path(work_dir) / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16: needs no loss scaling and, unlike MMEngine's own wrapper, runs on processors too."""

    def optim_context(self, model):
        stack = contextlib.ExitStack()
        stack.enter_context(super().optim_context(model))
        device = next(model.parameters()).device.type
        stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
        return stack
