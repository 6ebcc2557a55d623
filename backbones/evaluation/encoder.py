"""Any image model by name, tag or checkpoint, with the preprocessing that belongs to its weights."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_arch_name, get_pretrained_cfg
from torch import Tensor, nn

import backbones
from backbones.images import read_image
from backbones.weights import convert_state_dict, load_checkpoint

__all__ = ["Encoder", "load_encoder"]


@dataclass(frozen=True)
class Encoder:
    """A model in evaluation mode, and how images become its input.

    Attributes:
        name: The model's name, with its tag.
        weights: Where its weights are from: a tag, a file, or "random".
        model: The model.
        img_size: Height and width of its input, in pixels.
        transform: From an RGB image to (3, H, W).
        mean: Of the colours, which the transform subtracts.
        std: By which it divides.
    """

    name: str
    weights: str
    model: nn.Module
    img_size: tuple[int, int]
    transform: Callable[[Image.Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def title(self) -> str:
        """Name and origin of the weights, for tables and pictures."""
        return self.name if self.weights == self.name else f"{self.name} ({self.weights})"

    @property
    def widths(self) -> list[int]:
        """Channels of every level."""
        return [info["num_chs"] for info in self.model.feature_info]

    def level(self, index: int) -> int:
        """A level counted from 0, where negative ones count from the last.

        Raises:
            ValueError: If the model has no such level.
        """
        count = len(self.widths)
        if not -count <= index < count:
            raise ValueError(f"{self.name} has levels 0 to {count - 1} (or -1 for the last), not {index}")
        return index % count

    def read(self, files: Sequence[str]) -> Tensor:
        """Image files as the model takes them: (B, 3, H, W)."""
        device = next(self.model.parameters()).device
        return torch.stack([self.transform(read_image(file)) for file in files]).to(device)

    def pictures(self, images: Tensor) -> Tensor:
        """Input of the model as it would be looked at: (B, 3, H, W) -> (B, H, W, 3) from 0 to 1."""
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).cpu()

    def run(self, images: Tensor) -> Tensor:
        """What the model gives: (B, 3, H, W) -> logits (B, classes)."""
        return self.model(images)

    def maps(self, images: Tensor, level: int) -> Tensor:
        """The map of a level, the last one normalised: (B, 3, H, W) -> (B, H', W', C)."""
        (x,) = self.model.forward_intermediates(
            images, [self.level(level)], norm=True, stop_early=True, intermediates_only=True
        )
        return x.permute(0, 2, 3, 1)

    def weights_hash(self) -> str:
        """SHA-256 of all parameters and buffers."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(f"{key} {list(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _has_weights(name: str) -> bool:
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    return cfg is not None and any((cfg.url, cfg.hf_hub_id, cfg.file))


def _load(model: nn.Module, name: str, path: str) -> nn.Module:
    """The model with a checkpoint's weights, and as many classes as that has."""
    if get_arch_name(name) not in backbones.list_models():
        return backbones.create_model(name, checkpoint_path=path)
    checkpoint = load_checkpoint(path)
    weights = convert_state_dict(checkpoint, model, strict=False)
    if getattr(model, "task", "") == "generation":
        classes = len(weights["class_embed.weight"]) - 1 if "class_embed.weight" in weights else 0
        in_chans = weights["stem.proj.weight"].shape[1] if "stem.proj.weight" in weights else model.in_chans
        model = backbones.create_model(name, num_classes=classes, in_chans=in_chans)
        model.load_state_dict(convert_state_dict(checkpoint, model))
        return model
    classifier = weights.get(f"{model.pretrained_cfg['classifier']}.weight")
    if classifier is not None and len(classifier) != model.num_classes:
        model.reset_classifier(len(classifier))
    model.load_state_dict(convert_state_dict(checkpoint, model, strict=classifier is not None), strict=False)
    return model


def build_model(spec: str) -> tuple[nn.Module, str, str]:
    """A model with its weights, its name and where the weights are from, as ``Encoder`` has them.

    Args:
        spec: As ``load_encoder`` takes it.

    Raises:
        ValueError: If there is no such model, it has no published weights, or the checkpoint does not fit.
    """
    name, _, source = spec.partition("=")
    pretrained = not source
    if source not in ("", "random") and not os.path.isfile(source):
        raise ValueError(f"no checkpoint at {source!r}; {name}=random takes drawn weights")
    if pretrained and timm.is_model(get_arch_name(name)) and not _has_weights(name):
        raise ValueError(f"no weights are published of {name}: name a checkpoint, {name}=FILE, or {name}=random")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = backbones.create_model(name, pretrained=pretrained)
    if source not in ("", "random"):
        model = _load(model, name, source)
    if pretrained:
        tag = model.pretrained_cfg.get("tag")
        name = source = f"{get_arch_name(name)}.{tag}" if tag else name
    return model, name, source


def load_encoder(spec: str, img_size: tuple[int, int] | None = None, device: str | torch.device = "cpu") -> Encoder:
    """Build a model of the package or of timm for looking at it.

    Args:
        spec: ``NAME`` or ``NAME.TAG`` for published weights, ``NAME=FILE`` for those of a checkpoint,
            ``NAME=random`` for drawn ones (of seed 0).
        img_size: Height and width of the images; None for what the weights were made for.
        device: Where the model is.

    Raises:
        ValueError: If there is no such model, it has no published weights, the checkpoint does not fit, or the model
            does not map images to features.
    """
    arch = get_arch_name(spec.partition("=")[0])
    if arch in backbones.list_models(task="generation"):
        raise ValueError(f"{arch} denoises latents and is no encoder of images: backbones look draws its attention")
    model, name, source = build_model(spec)
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"{name} gives no feature maps (it has no forward_intermediates)")
    if img_size is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=img_size)
    config = resolve_data_config({} if img_size is None else {"input_size": (3, *img_size)}, model=model)
    size = tuple(config["input_size"][-2:])
    transform = create_transform(**config)
    return Encoder(name, source, model.eval().to(device), size, transform, config["mean"], config["std"])
