"""What a file says of itself: preprocessing, classes, licence, weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["PIXELS", "FromConfig", "Preprocessing", "Rescaled", "weights_hash"]

PIXELS = "pixels from 0 to 255"  # what a file takes that subtracts the mean itself

_Config = TypeVar("_Config", bound="FromConfig")


class FromConfig:
    """A dataclass that is made of the entries of a dictionary that have its attributes' names."""

    @classmethod
    def of_config(cls: type[_Config], config: Mapping[str, Any]) -> _Config:
        """From timm's ``resolve_data_config``, or from a file's metadata: other entries are left out."""
        names = [field.name for field in fields(cls) if field.name in config]  # type: ignore[arg-type]
        return cls(**{name: tuple(v) if isinstance(v := config[name], list) else v for name in names})


@dataclass(frozen=True, kw_only=True)
class Preprocessing(FromConfig):
    """How an image becomes the input of a model, in timm's terms.

    Attributes:
        input_size: Channels, height and width.
        interpolation: "bilinear", "bicubic", ...
        mean: Of each channel, for pixels from 0 to 1.
        std: Likewise.
        crop_pct: Share of the resized image that the crop keeps.
        crop_mode: "center" crops after resizing the shorter side, "squash" resizes both sides to the input size.
    """

    input_size: tuple[int, int, int]
    interpolation: str = "bicubic"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def transform(self, rescale: bool = True) -> Any:
        """Transform of a PIL image to the model's input (C, H, W).

        Args:
            rescale: Subtract the mean and divide by the standard deviation; otherwise pixels stay from 0 to 255.
        """
        from timm.data import create_transform

        config = asdict(self)
        if rescale:
            return create_transform(**config)
        config.update(mean=(0.0,) * len(self.mean), std=(1 / 255,) * len(self.std))
        return create_transform(**config)


class Rescaled(nn.Module):
    """A model that takes pixels from 0 to 255 and rescales them itself. Inputs and outputs as the model's.

    Args:
        model: What takes rescaled images.
        mean: Of each channel, for pixels from 0 to 1.
        std: Likewise.
    """

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.model((x - self.mean) / self.std)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of a model's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
