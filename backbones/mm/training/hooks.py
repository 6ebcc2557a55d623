"""What every run of the zoo has besides MMEngine's own hooks: safe files, checked data and losses, a learning curve."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import torch
from mmengine.dist import all_reduce, broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from backbones.files import whole_file
from backbones.mm.training.checks import check_data, leaf_datasets
from backbones.mm.training.run import latest_checkpoint
from backbones.mm.training.runner import RunStopped

__all__ = [
    "AtomicBackend",
    "BFloat16OptimWrapper",
    "CheckDataHook",
    "CheckSpaceHook",
    "FiniteLossHook",
    "LearningCurveHook",
    "RunStopped",
    "read_scalars",
]


@register_backend("atomic", force=True)
class AtomicBackend(LocalBackend):
    """Local files that appear complete or not at all: a run killed while it saves leaves no half checkpoint.

    ``CheckpointHook(backend_args=dict(backend="atomic"))``.

    Raises:
        RunStopped: the file cannot be written; files that exist are as they were.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        try:
            with whole_file(filepath) as partial:
                super().put(obj, partial)
                with partial.open("rb") as file:
                    os.fsync(file.fileno())  # so that it survives a power cut as well
        except OSError as error:
            raise RunStopped(
                f"cannot write {filepath} ({len(obj) / 1e6:.0f} MB): {error.strerror}. Earlier checkpoints are intact: "
                "make room and go on with --resume"
            ) from error


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Read every image and label map once before the first iteration, and before a test.

    Compares them with what the annotations say (sizes, labels), and the data sets' classes with each other and the
    model's. ``default_hooks=dict(check_data=None)`` turns it off. docs/long_runs.md has a table and what it costs.

    Raises:
        RunStopped: If images or label maps cannot be used, which the message lists, or counts or classes differ.
    """

    def before_train(self, runner) -> None:
        self._check(runner, [runner.train_dataloader, getattr(runner.val_loop, "dataloader", None)], training=True)

    def before_test(self, runner) -> None:
        self._check(runner, [runner.test_dataloader], training=False)

    def _check(self, runner, loaders: list, training: bool) -> None:
        message: list[str | None] = [None]
        if is_main_process():
            try:
                parts = [leaf_datasets(loader.dataset) for loader in loaders if loader]
                for warning in check_data(parts, runner.cfg.model, training):
                    runner.logger.warning(warning)
            except ValueError as error:
                message = [str(error)]
        broadcast_object_list(message)
        if message[0]:
            raise RunStopped(message[0])


@HOOKS.register_module()
class CheckSpaceHook(Hook):
    """Stop before the first iteration where the disk has no room for the checkpoints.

    Raises:
        RunStopped: less is free than the kept checkpoints and one more need, with an optimizer of two moments.
    """

    @master_only
    def before_train(self, runner) -> None:
        kept = max([hook.max_keep_ckpts for hook in runner.hooks if isinstance(hook, CheckpointHook)], default=-1)
        # weights, two moments; averaged weights; gradients of a step that has begun
        copies = 3 + any(isinstance(hook, EMAHook) for hook in runner.hooks)
        copies += runner.cfg.get("optim_wrapper", {}).get("accumulative_counts", 1) > 1
        needed = (max(kept, 1) + 1) * copies * 4 * sum(p.numel() for p in runner.model.parameters())
        free = shutil.disk_usage(runner.work_dir).free
        if free < needed:
            raise RunStopped(
                f"{runner.work_dir} has {free / 1e6:.0f} MB free, the checkpoints need {needed / 1e6:.0f} MB: "
                "make room or name another folder with --work-dir"
            )


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a run whose loss is NaN or infinite, before such weights are saved; in all processes at once.

    The loss is averaged over processes for that, so that the log shows the whole batch's and not the first process's.

    Raises:
        RunStopped: the loss, or a weight about to be saved, is not finite; the message names the iteration.
    """

    priority = "HIGHEST"  # before the loss is logged and the weights are saved

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if not outputs or "loss" not in outputs:
            return
        loss = outputs["loss"] = outputs["loss"].detach().clone()
        all_reduce(loss, op="mean")
        if not loss.isfinite():
            self._stop(runner, f"the loss is {loss.item()}")

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        bad = [k for k, v in checkpoint["state_dict"].items() if v.is_floating_point() and not v.isfinite().all()]
        if bad:
            self._stop(runner, f"{len(bad)} weights are not finite ({', '.join(bad[:3])})")

    def _stop(self, runner, what: str) -> NoReturn:
        last = latest_checkpoint(runner.work_dir)
        again = "No checkpoint was written yet: start again with"
        if last:
            again = (
                f"The last good checkpoint is {last}: resume with clipped gradients or without --amp, or start from "
            )
            again += f"from its weights (--cfg-options load_from={last}, without --resume) with"
        raise RunStopped(
            f"{what} at iteration {runner.iter + 1}. {again} a lower learning rate, clipped gradients, or without --amp"
        )


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


def drawn_metrics(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are about all objects: COCO's evaluation repeats itself for three ranges of size."""
    return [name for name in names if not re.search(r"_mAP_[sml]$", name)]


def draw_learning_curve(work_dir: str | os.PathLike) -> Path | None:
    """Write ``learning_curve.png`` from what the run has logged; None while there is nothing to draw."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    losses, metrics = read_scalars(work_dir)
    if not losses and not metrics:
        return None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(losses), list(losses.values()))
    left.set(title="training loss", xlabel="iteration", yscale="log")
    for name in drawn_metrics(metrics):
        right.plot(list(metrics[name]), list(metrics[name].values()), marker=".", label=name)
    right.set(title="validation", xlabel="epoch or iteration")
    if metrics:
        right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    path = Path(work_dir) / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16: needs no loss scaling and, unlike MMEngine's own wrapper, runs on processors too.

    Of a two-stage detector only backbone and neck: mmcv's RoIAlign and suppression have no kernels for bfloat16.
    """

    @contextlib.contextmanager
    def optim_context(self, model):
        detector = getattr(model, "module", model)
        autocast = torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16)
        with super().optim_context(model):
            if not hasattr(detector, "roi_head"):
                with autocast:
                    yield
                return
            extract = detector.extract_feat

            def extract_in_bfloat16(*args, **kwargs):
                with autocast:
                    maps = extract(*args, **kwargs)
                return tuple(x.float() for x in maps)

            detector.extract_feat = extract_in_bfloat16
            try:
                yield
            finally:
                del detector.extract_feat  # the class's own is seen again
