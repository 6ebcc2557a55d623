"""An exported file in place of the network that it was made of: a config's data and metrics measure it."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from backbones.deploy.runtimes import FORMATS, Runtime, load_export
from backbones.mm.preprocessing import preprocessing_of
from backbones.mm.training.matching import Names

__all__ = ["is_export", "open_export", "use_export"]

TASKS = {"mmpretrain": "classification", "mmseg": "segmentation", "mmdet": "detection"}


def is_export(path: str) -> bool:
    """Whether a path is that of an exported file, by its ending."""
    return path.endswith(tuple(runtime.suffix for runtime in FORMATS.values()))


def open_export(path: str, cfg: Config) -> tuple[Runtime, Names | None]:
    """An exported file, and the classes of its data set where it was exported with its config.

    Args:
        path: Of the file.
        cfg: Of the test.

    Raises:
        ValueError: If it cannot be loaded, is of another task, or takes what the config does not prepare.
        FileNotFoundError: If it does not exist.
    """
    runtime = load_export(path)
    said, source = runtime.metadata, runtime.source
    task = TASKS[cfg.default_scope]
    if said["task"] != task:
        raise ValueError(f"{path} is for {said['task']}, {cfg.filename} for {task}")
    given = preprocessing_of(cfg, cfg.filename)
    for name in ("mean", "std"):
        wanted, stated = getattr(given, name), said[name]
        if not torch.allclose(torch.tensor(wanted), torch.tensor(stated), atol=1e-4):
            raise ValueError(f"{path} was exported for images of {name} {stated}, the config's have {wanted}")
    if "height" not in said["dynamic"]:
        size, taken = ("{} x {}".format(*shape[1:]) for shape in (given.input_size, said["input_size"]))
        several = getattr(given, "keep_ratio", False)
        if several or size != taken:
            images, remedy = ("have several sizes", "dynamic") if several else (f"are {size}", size.replace(" ", ""))
            raise ValueError(
                f"{path} takes {taken} pixels, the config's images {images}: export it with --size {remedy}"
            )
    return runtime, Names(tuple(said["classes"]), path) if source.get("config") else None


class _File(nn.Module):
    """Images (B, 3, H, W) as the config normalises and pads them -> the outputs of a file."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime
        said = runtime.metadata
        self.batch = said["batch"]
        self.mean, self.std = (255 * torch.tensor(said[key]).view(-1, 1, 1) for key in ("mean", "std"))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.cpu()
        if self.runtime.takes_pixels:
            x = x * self.std + self.mean
        outputs = []
        for part in x.split(self.batch or len(x)):
            filled = torch.cat([part, part[-1:].expand((self.batch or len(part)) - len(part), -1, -1, -1)])
            outputs.append([y[: len(part)] for y in self.runtime(filled)])
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


class _Classifier(_File):
    """In place of a backbone that computes logits (B, classes)."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (super().forward(x)[0],)


def use_export(model: nn.Module, runtime: Runtime) -> None:
    """Let a model of OpenMMLab predict by an exported file.

    Args:
        model: Of the config that the file was made with, of any weights.
        runtime: As ``open_export`` returns it.
    """
    file = _File(runtime)
    whole: Any = model
    if runtime.metadata["task"] == "classification":
        whole.backbone = _Classifier(runtime)
    elif runtime.metadata["task"] == "segmentation":
        whole.test_cfg.mode = "whole"  # of which files are
        whole.encode_decode = lambda inputs, metas: file(inputs)[0]
    else:

        def predict(inputs: Tensor, samples: Sequence[Any], rescale: bool = True) -> Sequence[Any]:
            return whole.add_pred_to_datasample(
                samples, [boxes_of(*pair) for pair in zip(inputs, samples, strict=True)]
            )

        def boxes_of(image: Tensor, sample: Any) -> InstanceData:
            height, width = sample.img_shape[:2]
            boxes, scores, labels = (y[0] for y in file(image[None, :, :height, :width]))  # which pads it itself
            kept = scores > runtime.metadata["score_threshold"]
            scale = boxes.new_tensor(sample.scale_factor).repeat(2)
            return InstanceData(bboxes=boxes[kept] / scale, scores=scores[kept], labels=labels[kept])

        whole.predict = predict
