"""MMEngine's runner, made to begin and to go on only where that means what the config says."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from backbones.mm.backbone import ZooBackbone
from backbones.weights import compare, convert_state_dict, load_checkpoint

__all__ = ["ResumableRunner", "RunStopped", "find_entries", "like", "whole"]


class RunStopped(RuntimeError):
    """A run cannot begin or go on; the message says why, and what helps."""


class ResumableRunner(Runner):
    """MMEngine's runner for training that can be killed at any checkpoint.

    What a checkpoint restores without a word (learning rates, schedule, averages) and what it does not restore (images
    of an iteration, accumulated batches) is compared with the config when a run resumes. Gradients of a step that has
    begun are kept with the checkpoint. ``load_from`` reads any layout and stops where the backbone is not in the file.
    Schedulers that begin after the end of training are left out.

    Raises:
        RunStopped: see :class:`ResumeHook`, :class:`BatchesHook` and :func:`find_entries`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.register_hook(ResumeHook())
        self.register_hook(BatchesHook())

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """None turns a hook off; MMEngine refuses it for hooks that are not among its own."""
        super().register_default_hooks({name: hook or Hook() for name, hook in (hooks or {}).items()})

    @property
    def plain_model(self) -> nn.Module:
        """The model without what distributes it."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        try:
            return super().build_model(model)
        except (ValueError, OSError) as error:  # pretrained weights
            raise RunStopped(f"model: {error}") from error

    def _init_model_weights(self) -> None:
        try:
            super()._init_model_weights()
        except (ValueError, OSError) as error:  # init_cfg
            raise RunStopped(str(error)) from error

    def build_train_loop(self, loop):
        built = super().build_train_loop(loop)
        images, size = len(built.dataloader.sampler), self.cfg.train_dataloader.batch_size
        if len(built.dataloader) == 0:
            raise RunStopped(
                f"{images} training images of a process make no batch of {size}, and incomplete ones are dropped: "
                f"set train_dataloader.batch_size={max(images, 1)} or train_dataloader.drop_last=False"
            )
        return built

    def build_param_scheduler(self, scheduler):
        """Schedulers of the optimizer, those left out that would begin at the end of training or later."""
        if not isinstance(scheduler, (list, tuple)) or isinstance(self.optim_wrapper, OptimWrapperDict):
            return super().build_param_scheduler(scheduler)
        loop = self.train_loop
        acting = []
        for i, part in enumerate(scheduler):
            if isinstance(part, dict):
                unit, total = (
                    ("epoch", loop.max_epochs) if part.get("by_epoch", True) else ("iteration", loop.max_iters)
                )
                begin, end = part.get("begin", 0), part.get("end", total)
                name = f"param_scheduler[{i}] ({part['type']})"
                if begin >= total:
                    self.logger.warning(f"{name} begins at {unit} {begin}, the end of training: it is left out")
                    continue
                if begin >= end:
                    raise RunStopped(f"{name} begins at {unit} {begin} and ends at {end}: set begin below end")
                if end > total:
                    self.logger.warning(f"{name} ends at {unit} {end}, training already at {total}")
            acting.append(part)
        return super().build_param_scheduler(acting)

    def load_checkpoint(self, filename: str, map_location="cpu", strict: bool = False, **kwargs) -> dict:
        if self._resume:
            return super().load_checkpoint(filename, map_location, strict, **kwargs)
        try:
            checkpoint = load_checkpoint(filename)
            found, own = find_entries(self.plain_model, checkpoint, filename), self.plain_model.state_dict()
        except (ValueError, OSError) as error:
            raise RunStopped(f"load_from: {error}") from error
        if afresh := [key for key in own if key not in found]:
            parts = sorted({".".join(key.split(".")[:2]) for key in afresh})
            self.logger.warning(
                f"{filename} has not, or in other shapes, {len(afresh)} of {len(own)} entries, which start afresh: "
                + ", ".join(parts)
            )
        checkpoint = {**checkpoint, "state_dict": {**own, **found}}
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        self.plain_model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        self.logger.info(f"{len(found)} of {len(own)} entries are from {filename}")
        return checkpoint

    def save_checkpoint(self, *args, meta: dict | None = None, **kwargs) -> None:
        self.gradients = self._gather_gradients()
        super().save_checkpoint(*args, meta=dict(meta or {}, run=_settings(self)), **kwargs)

    def _gather_gradients(self) -> dict[str, Tensor]:
        """Gradients of a step whose batches have not all been seen, as the mean over processes; usually none.

        Processes go on with the mean, so that a run that is resumed here computes what this one does.
        """
        gradients = {}
        for name, parameter in self.plain_model.named_parameters():
            if parameter.grad is not None:
                if not isinstance(parameter.grad, DTensor):
                    all_reduce(parameter.grad, op="mean")
                gradients[name] = whole(parameter.grad).cpu().clone()
        return gradients


def find_entries(model: nn.Module, checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """A model's own entries from a file in any layout, with which training starts.

    Args:
        model: an OpenMMLab model.
        checkpoint: content of a file written by training such a model, or with the backbone (a classifier's,
            detector's or segmentation model's) in any layout of its family.
        source: what the file is called in messages.

    Returns:
        Entries of the right shape. Of neck and heads any may be absent, of the backbone none but the classifier's.

    Raises:
        ValueError: something of the backbone is missing, of another shape, or more than the model has.
    """
    own = model.state_dict()
    weights = checkpoint.get("state_dict", checkpoint)
    weights = {key.removeprefix("module."): value for key, value in weights.items() if isinstance(value, Tensor)}
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, ZooBackbone):
        weights |= {f"backbone.{key}": value for key, value in backbone.find_entries(checkpoint, source).items()}
    elif hasattr(model, "generator"):
        weights |= {
            f"generator.{key}": value
            for key, value in convert_state_dict(checkpoint, model.generator, strict=False).items()
        }
    fit = compare(weights, own)
    if not isinstance(backbone, ZooBackbone):  # that one has been compared
        body = "backbone." if backbone is not None else ""
        fit.only(lambda key: key in own and key.startswith(body)).require(source, type(model).__name__, most=5)
    return {key: weights[key] for key in own if key not in fit.unfit}


# Sharded tensors ------------------------------------------------------------------------------------------------------


def whole(state):
    """Dictionaries and lists with every sharded tensor put together."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return type(state)((key, whole(value)) for key, value in state.items())
    return [whole(value) for value in state] if isinstance(state, list) else state


def like(value: Tensor, sharded: Tensor) -> Tensor:
    """This process's piece of ``value``, which all have read, divided as ``sharded`` is."""
    if not isinstance(sharded, DTensor) or isinstance(value, DTensor) or value.shape != sharded.shape:
        return value
    return distribute_tensor(value.to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


# Resuming -------------------------------------------------------------------------------------------------------------


def _settings(runner: Runner) -> dict[str, int]:
    """What a resumed run must share with the one before and no optimizer state tells."""
    wrapper = runner.optim_wrapper
    return dict(
        processes=get_world_size(),
        batch_size=runner.cfg.train_dataloader.batch_size,
        accumulate=1 if isinstance(wrapper, OptimWrapperDict) else wrapper._accumulative_counts,
    )


class ResumeHook(Hook):
    """Compare a run that resumes with the one that wrote the checkpoint, and hand over begun gradients.

    Raises:
        RunStopped: weights, classes, images of an iteration, accumulated batches, averaging, learning rates or schedule
            differ. The message has both values and the remedy.
    """

    priority = "HIGHEST"  # before averages are put in place of weights

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner.gradients:
            checkpoint["gradients"] = runner.gradients

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        if differences := list(_differences(runner, checkpoint)):
            raise RunStopped(
                f"cannot resume from {runner._load_from}: "
                + "; ".join(differences)
                + f". To begin a new run with its weights, leave out --resume and add --cfg-options "
                f"load_from={runner._load_from}"
            )
        gradients = checkpoint.get("gradients", {})
        for name, parameter in runner.plain_model.named_parameters():
            if name in gradients:
                parameter.grad = like(gradients[name].to(parameter), parameter)
        if gradients:
            runner.logger.info("the checkpoint was written between two steps, and has the gradients: nothing is lost")


def _differences(runner: Runner, checkpoint: dict) -> Iterator[str]:
    """Why training would not go on as it was, with both values and the remedy."""
    fit = compare(checkpoint["state_dict"], runner.plain_model.state_dict())
    if problems := fit.problems(most=3):
        yield "the model is another one (" + "; ".join(problems) + ")"
        return
    then = (checkpoint["meta"].get("dataset_meta") or {}).get("classes")
    now = getattr(runner.train_dataloader.dataset, "metainfo", {}).get("classes")
    if then and now and list(then) != list(now):
        yield f"its classes are {_shown(then)}, those of the data {_shown(now)}"
    if before := checkpoint["meta"].get("run"):
        yield from _changed_settings(before, _settings(runner))
    if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        yield "it has averaged weights, which would be taken for the trained ones: add --ema, with the share as before"
    if "optimizer" in checkpoint and not isinstance(runner.optim_wrapper, OptimWrapperDict):
        yield from _changed_groups(checkpoint["optimizer"]["param_groups"], runner.optim_wrapper.optimizer.param_groups)
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, list) and isinstance(checkpoint.get("param_schedulers", []), list):
        yield from _changed_schedule(checkpoint.get("param_schedulers", []), schedulers)


def _shown(names) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _changed_settings(then: dict[str, int], now: dict[str, int]) -> Iterator[str]:
    images, own = (run["processes"] * run["batch_size"] for run in (then, now))
    if images != own:
        if images % now["processes"] == 0:
            remedy = f"--cfg-options train_dataloader.batch_size={images // now['processes']}"
        else:
            remedy = f"{then['processes']} processes"
        yield (
            f"an iteration had {images} images ({then['processes']} x {then['batch_size']}), now {own} "
            f"({now['processes']} x {now['batch_size']}): resume with {remedy}"
        )
    if then["accumulate"] != now["accumulate"]:
        yield (
            f"a step had {then['accumulate']} batches, now {now['accumulate']}: "
            f"resume with --accumulate {then['accumulate']}"
        )


# What steps change, and what differs between machines.
_MOVING = {"last_step", "_global_step", "_last_value", "base_values", "verbose"}


def _changed_groups(then: list[dict], now: list[dict]) -> Iterator[str]:
    if [len(group["params"]) for group in then] != [len(group["params"]) for group in now]:
        yield (
            f"the optimizer had {sum(len(group['params']) for group in then)} parameters in {len(then)} groups, now "
            f"{sum(len(group['params']) for group in now)} in {len(now)}: freeze and group them as before"
        )
        return
    for name in ("lr", "weight_decay"):
        initial = f"initial_{name}"  # the value before schedulers changed it
        for before, own in zip(then, now):
            old, new = (group.get(initial, group.get(name)) for group in (before, own))
            if old != new and (initial in before) == (initial in own):
                option = "optim_wrapper.optimizer." + name
                yield f"{initial if initial in own else name} was {old:g}, is {new:g}: set {option} as before"
                break


def _changed_schedule(then: list[dict], now: list) -> Iterator[str]:
    kinds = [type(scheduler).__name__ for scheduler in now]
    if len(then) != len(now):
        yield f"there were {len(then)} schedulers, now {len(now)} ({', '.join(kinds)}): set param_scheduler as before"
        return
    for i, (before, scheduler) in enumerate(zip(then, now)):
        own = scheduler.state_dict()
        changed = [key for key in own if key not in _MOVING and key in before and before[key] != own[key]]
        if changed:
            key = "end" if "end" in changed else changed[0]
            yield (
                f"param_scheduler[{i}] ({kinds[i]}) had {key} {before[key]}, now {own[key]}: "
                "train for as many epochs or iterations on as many images as before"
            )
            return


# Batches --------------------------------------------------------------------------------------------------------------


class BatchesHook(Hook):
    """Look at the sizes of the training batches before the first iteration.

    Raises:
        RunStopped: there is one of a single image, with which a BatchNorm would have one value a channel.
    """

    def before_train(self, runner) -> None:
        loader = runner.train_dataloader
        images, size = len(loader.sampler), runner.cfg.train_dataloader.batch_size
        endless = isinstance(getattr(loader.sampler, "sampler", loader.sampler), InfiniteSampler)
        last = size if endless or loader.drop_last else images % size or size
        if last == 1 and (name := self._lonely_norm(runner, loader)):
            what = "a batch has" if size == 1 else f"the last batch of {images} images in batches of {size} has"
            remedy = "train_dataloader.batch_size=2" if size == 1 else "train_dataloader.drop_last=True"
            raise RunStopped(
                f"{what} one image, of which {name} (BatchNorm) sees one pixel and cannot normalise it: "
                f"set {remedy}, another batch size, or larger images"
            )

    @torch.no_grad()
    def _lonely_norm(self, runner, loader) -> str | None:
        """Name of a trained BatchNorm whose input has one value a channel for one image."""
        model = runner.plain_model.train()
        norms = {
            module: name
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm)
            and module.training
            and not (isinstance(module, SyncBatchNorm) and get_world_size() > 1)
        }
        if not norms:
            return None
        lonely: list[str] = []

        def look(module, inputs) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                lonely.append(norms[module])

        handles = [module.register_forward_pre_hook(look) for module in norms]
        try:
            model.eval()  # statistics stay
            data = model.data_preprocessor(loader.collate_fn([loader.dataset[0]]), False)
            model(**data, mode="tensor")
        finally:
            for handle in handles:
                handle.remove()
            model.train()
        return lonely[0] if lonely else None
