"""A generator as an encoder of images: what it reads of noisy latents at one time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data import create_transform
from torch import Tensor, nn

from backbones.diffusion import Autoencoder, TextEncoder, add_noise, check_channels, check_size, draw_noise
from backbones.diffusion.flow import TIMES
from backbones.evaluation.encoder import Encoder

__all__ = ["Denoiser", "make_denoiser", "read_condition"]

HALF = (0.5, 0.5, 0.5)  # brings colours to [-1, 1]


@dataclass(frozen=True)
class Denoiser(Encoder):
    """A PT-DiT whose input is an image's latents with the noise of a time, or noise alone.

    The noise is that of seed 0, the same for all images. ``img_size`` is that of the images where there is an
    autoencoder, else of the latents; ``transform`` brings colours to [-1, 1].

    Attributes:
        time: From 0 (the image) to 1000 (noise).
        autoencoder: Makes latents of images; None where the model reads pixels, or there are no images.
        condition: Further arguments of the model for one sample, each (1, ...): ``y``, ``context``, ``context_mask``.
    """

    time: float = 500.0
    autoencoder: Autoencoder | None = None
    condition: dict[str, Tensor] = field(default_factory=dict)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of what the model reads."""
        stride = self.autoencoder.stride if self.autoencoder else 1
        return self.img_size[0] // stride, self.img_size[1] // stride

    def noise(self) -> Tensor:
        """(1, C, H, W) of seed 0."""
        device = next(self.model.parameters()).device
        return draw_noise((self.model.in_chans, *self.latent_size), 0, [0]).to(device)

    def read(self, files: Sequence[str]) -> Tensor:
        """Latents without noise (B, C, H, W); noise where there are no files."""
        if not files:
            return self.noise()
        pixels = super().read(files)
        if self.autoencoder is None:
            return pixels if self.model.in_chans == 3 else pixels.mean(1, keepdim=True)
        return self.autoencoder.encode(pixels)[0].clone()  # out of inference mode: receptive fields need gradients

    def noisy(self, latents: Tensor) -> Tensor:
        """Latents with the noise of the time; what is noise already stays."""
        if self.time == TIMES:
            return latents
        return add_noise(latents, self.noise(), torch.tensor([self.time], device=latents.device))

    def pictures(self, images: Tensor) -> Tensor:
        """Latents as they would be looked at, without the noise: decoded, or their first channels as colours."""
        if self.autoencoder is not None and self.time < TIMES:
            return self.autoencoder.decode(images).movedim(1, -1).add(1).div(2).cpu()
        colours = images[:, :3] if self.model.in_chans >= 3 else images[:, :1].expand(-1, 3, -1, -1)
        low, high = (-1.0, 1.0) if self.time < TIMES else (-3.0, 3.0)
        return ((colours - low) / (high - low)).clamp(0, 1).movedim(1, -1).cpu()

    def _arguments(self, count: int) -> dict[str, Any]:
        condition = {key: value.expand(count, *value.shape[1:]) for key, value in self.condition.items()}
        return {"timesteps": self.time, **condition}

    def run(self, images: Tensor) -> Tensor:
        """What the model predicts of latents: (B, C, H, W) -> (B, C', H, W)."""
        return self.model(self.noisy(images), **self._arguments(len(images)))

    def maps(self, images: Tensor, level: int) -> Tensor:
        """The tokens after a block, normalised: (B, C, H, W) -> (B, H', W', dim)."""
        (x,) = self.model.forward_intermediates(
            self.noisy(images),
            [self.level(level)],
            norm=True,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NHWC",
            **self._arguments(len(images)),
        )
        return x


def read_condition(
    model: nn.Module, label: int | None, prompt: str | None, text_encoder: str | None
) -> dict[str, Tensor]:
    """What one sample of a generator is conditioned on: a class, a text, or nothing.

    Args:
        model: PT-DiT.
        label: A class, or None for none.
        prompt: A text, or None: then a model of texts reads one state of zeros.
        text_encoder: Folder or hub repository of T5's encoder and tokenizer.

    Raises:
        ValueError: If the model has no such class, reads no text, or the encoder's states are of another width.
    """
    if label is not None and not 0 <= label < model.num_classes:
        known = f"classes 0 to {model.num_classes - 1}" if model.num_classes else "no classes"
        raise ValueError(f"--label {label}: the model has {known}")
    width = model.cfg.text_dim
    if prompt is not None and not width:
        raise ValueError("--prompt: the model reads no text")
    if (prompt is None) != (text_encoder is None):
        raise ValueError("--prompt and --text-encoder (T5's encoder and tokenizer) go together")
    if label is not None:
        return {"y": torch.tensor([label])}
    if prompt is None:
        return {"context": torch.zeros(1, 1, width)} if width else {}
    encoder = TextEncoder(str(text_encoder))
    if encoder.width != width:
        raise ValueError(f"{text_encoder} has states of {encoder.width} numbers, the model reads {width}")
    context, mask = encoder([prompt])
    return {"context": context.clone(), "context_mask": mask}  # out of inference mode


def make_denoiser(
    model: nn.Module,
    name: str,
    weights: str,
    has_images: bool,
    img_size: tuple[int, int] | None = None,
    time: float | None = None,
    autoencoder: Autoencoder | None = None,
    condition: dict[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> Denoiser:
    """A generator that can be looked at.

    Args:
        model: PT-DiT.
        name, weights: As ``Encoder`` has them.
        has_images: Whether it reads images; else noise alone, at time 1000.
        img_size: Height and width of the images, or of the latents where there is no autoencoder; None for the
            model's own.
        time: Of the noise, from 0 (the image) to 1000; None for 500.
        autoencoder: For models of latents that are to read images.
        condition: Of ``read_condition``.
        device: Where the model is.

    Raises:
        ValueError: If images are given and the model reads latents that nothing makes of them, or the time or size
            does not fit.
    """
    if has_images and autoencoder is None and model.in_chans not in (1, 3):
        raise ValueError(
            f"{name} reads latents of {model.in_chans} channels: give --autoencoder FOLDER for images, or leave "
            "--image out and see what it does with noise"
        )
    if has_images:
        check_channels(model, autoencoder)
        time = TIMES / 2 if time is None else time
        if not 0 <= time < TIMES:
            raise ValueError(f"--time {time:g}: from 0 (the image) to below {TIMES:g}, which is noise alone")
    elif time not in (None, TIMES):
        raise ValueError(f"--time {time:g} is of an image with noise: give --image")
    if img_size is None:
        stride = autoencoder.stride if autoencoder else 1
        height, width = (stride * side for side in model.pretrained_cfg["input_size"][-2:])
    else:
        height, width = img_size
    check_size(model, height, width, autoencoder)
    transform = create_transform(
        (3, height, width), interpolation="bicubic", mean=HALF, std=HALF, crop_pct=1.0, crop_mode="center"
    )
    condition = {key: value.to(device) for key, value in (condition or {}).items()}
    time = TIMES if time is None else time
    return Denoiser(
        name, weights, model.eval().to(device), (height, width), transform, HALF, HALF, time, autoencoder, condition
    )
