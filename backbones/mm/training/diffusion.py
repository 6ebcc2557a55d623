"""Training generators with MMEngine: the model, latents as data, the loss on held-out data, pictures on the way."""

import bisect
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import Tensor
from torch.utils.data import Dataset

import backbones
from backbones.diffusion import (
    Autoencoder,
    check_channels,
    check_size,
    draw_grid,
    draw_noise,
    draw_times,
    drop_labels,
    flow_loss,
    generate,
    shift_times,
    velocity,
)
from backbones.diffusion.flow import TIMES
from backbones.mm.training.hooks import RunStopped

__all__ = ["DiffusionTrainer", "FlowLoss", "LatentImages", "SampleGridHook"]


@MODELS.register_module()
class DiffusionTrainer(BaseModel):
    """A class-conditional generator that MMEngine trains by rectified flow.

    Reads batches as MMPretrain's datasets and preprocessor give them, so that any of its datasets will do for pixels,
    and :class:`LatentImages` for latents. Evaluation computes the same loss at fixed times with fixed noise.

    Args:
        generator: name of a model with classes and its options: ``dict(model="ptdit_s_class", in_chans=4,
            num_classes=1000)``.
        input_size: height and width of what it generates, in pixels or latents.
        drop_rate: share of samples whose class is hidden, for guidance.
        shift: of the times, towards noise above 1; see :func:`backbones.diffusion.resolution_shift`.
        data_preprocessor: MMPretrain's; it must bring pixels to [-1, 1].

    Raises:
        ValueError: an unknown name, a model that is no generator with classes, a size that is not a multiple of the
            patch, a share or a shift that is none.
    """

    def __init__(
        self,
        generator: dict[str, Any],
        input_size: Sequence[int],
        drop_rate: float = 0.1,
        shift: float = 1.0,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate is {drop_rate}, not a share from 0 to below 1")
        shift_times(torch.zeros(1), shift)  # a shift that cannot be raises here
        self.drop_rate = drop_rate
        self.shift = shift
        options = dict(generator)
        name = options.pop("model")
        self.generator = backbones.create_model(name, **options)
        if getattr(self.generator, "task", "") != "generation" or not self.generator.num_classes:
            raise ValueError(f"{name} is no generator with classes: choose a PT-DiT and num_classes, 1 or more")
        check_size(self.generator, input_size[0], input_size[1])
        self.input_size = (self.generator.in_chans, *input_size)

    def forward(self, inputs: Tensor, data_samples: list, mode: str = "loss") -> dict[str, Tensor] | list[float]:
        """``{"loss": mean of the batch}``; with mode "predict" the loss of each sample.

        Args:
            inputs: (B, C, H, W).
            data_samples: MMPretrain's, with ``gt_label``.

        Raises:
            RunStopped: data of another size than ``input_size``.
        """
        if tuple(inputs.shape[1:]) != self.input_size:
            raise RunStopped(f"the data are {tuple(inputs.shape[1:])}, but the model generates {self.input_size}")
        labels = torch.cat([sample.gt_label for sample in data_samples]).to(inputs.device)
        if mode == "loss":
            labels = drop_labels(labels, self.generator.num_classes, self.drop_rate)
            times = draw_times(len(inputs), self.shift, device=inputs.device)
            return {"loss": self._losses(inputs, torch.randn_like(inputs), times, labels).mean()}
        noise = draw_noise(self.input_size, 0, range(len(inputs))).to(inputs)
        times = TIMES * (torch.arange(len(inputs), device=inputs.device) + 0.5) / len(inputs)
        return self._losses(inputs, noise, times, labels).tolist()

    def _losses(self, data: Tensor, noise: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return flow_loss(lambda x, t: velocity(self.generator, x, t, y=labels), data, noise, times)


@DATASETS.register_module()
class LatentImages(Dataset):
    """Latents that ``backbones encode-latents`` has written, drawn anew from their distribution each time.

    Args:
        data_root: what the tool wrote.
        split: ``train`` or ``val``.
        test_mode: take the mean of the distribution, always the same.

    Raises:
        RunStopped: there are none, or not all.
    """

    def __init__(self, data_root: str, split: str, test_mode: bool = False) -> None:
        if not Path(data_root, "latents.json").is_file():
            raise RunStopped(f"no latents in {data_root!r}: write them with `backbones encode-latents`")
        self.metainfo = json.loads(Path(data_root, "latents.json").read_text())
        # stays on the disk; the system keeps what is read often
        files = [Path(data_root, split, f"{name}.npy") for name in self.metainfo["classes"]]
        if missing := [str(file) for file in files if not file.exists()]:
            raise RunStopped(
                f"{len(missing)} classes lack latents, {missing[0]} first: run `backbones encode-latents` again"
            )
        self.parts = [np.load(file, "r") for file in files]
        self.ends = list(itertools.accumulate(map(len, self.parts)))
        self.test_mode = test_mode

    def __len__(self) -> int:
        return self.ends[-1]

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Nothing: there is no image to check."""
        return {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (C, H, W) and ``data_samples`` with the class, as MMPretrain packs them."""
        from mmpretrain.structures import DataSample

        label = bisect.bisect_right(self.ends, index)
        part = self.parts[label]
        mean, std = torch.from_numpy(part[index - self.ends[label] + len(part)].astype(np.float32)).chunk(2)
        latent = mean if self.test_mode else mean + std * torch.randn_like(mean)
        return {"inputs": latent, "data_samples": DataSample().set_gt_label(label)}


@METRICS.register_module()
class FlowLoss(BaseMetric):
    """Mean loss on held-out data, ``flow_loss``: it rises where a generator learns its training data by heart."""

    def process(self, data_batch: dict, data_samples: Sequence[float]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"flow_loss": float(np.mean(results))}


@HOOKS.register_module()
class SampleGridHook(Hook):
    """Draw samples before each validation into ``work_dir/samples/<iteration>.png``: a row of classes, several times.

    With EMAHook, the averaged weights draw. The noise is the same each time, so that pictures can be compared.

    Args:
        rows: samples of each class.
        classes: at most so many of them, the first.
        guidance, steps, solver: see :func:`backbones.diffusion.generate`.
        autoencoder: folder or hub repository that decodes latents; None for pixels.

    Raises:
        RunStopped: there is no autoencoder for what the model draws.
    """

    priority = "LOW"  # after EMAHook has put its weights in

    def __init__(
        self,
        rows: int = 8,
        classes: int = 10,
        guidance: float = 2.0,
        steps: int = 30,
        solver: str = "euler",
        autoencoder: str | None = None,
    ) -> None:
        self.rows, self.classes = rows, classes
        self.options: dict[str, Any] = dict(guidance=guidance, steps=steps, solver=solver)
        self.source = autoencoder
        self.autoencoder: Autoencoder | None = None

    @master_only
    def before_train(self, runner) -> None:
        try:
            if self.source:
                self.autoencoder = Autoencoder(self.source, next(runner.model.parameters()).device)
            check_channels(unwrap(runner).generator, self.autoencoder)
        except ValueError as error:
            raise RunStopped(f"cannot draw samples: {error}") from error

    @master_only
    def before_val_epoch(self, runner) -> None:
        trainer = unwrap(runner)
        null = trainer.generator.num_classes
        classes = min(self.classes, null)
        labels = torch.arange(classes).repeat(self.rows)
        training = trainer.training
        trainer.eval()
        pixels = generate(
            trainer.generator,
            trainer.input_size,
            {"y": labels},
            {"y": torch.tensor([null])},
            shift=trainer.shift,
            **self.options,
        )
        trainer.train(training)
        if self.autoencoder:
            pixels = self.autoencoder.decode(pixels)
        picture = draw_grid(pixels, classes)
        path = Path(runner.work_dir, "samples", f"{runner.iter:07d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        runner.visualizer.add_image("samples", np.asarray(picture.convert("RGB")), step=runner.iter)


def unwrap(runner) -> DiffusionTrainer:
    """The model of a run, without the wrapper of distributed training."""
    return getattr(runner.model, "module", runner.model)
