"""Between pixels and latents: the autoencoders of ``diffusers``."""

import os

import torch
from torch import Tensor, nn

from backbones.diffusion.folders import find_part

__all__ = ["Autoencoder", "check_channels", "check_size"]


class Autoencoder:
    """Any variational autoencoder of ``diffusers`` for pictures or videos, with latents of unit variance.

    Attributes:
        channels: of the latents.
        stride: pixels a latent has along a side.
        frame_stride: frames a latent has after the first, which has a latent of its own; 1 for pictures.

    Args:
        source: folder or repository of the hub, with the files in it or in its subfolder ``vae``.
        device: where to run.

    Raises:
        ValueError: the autoencoder is not found, or not of a kind that is supported.
    """

    def __init__(self, source: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        from diffusers import AutoModel

        subfolder = find_part(source, "vae")
        try:
            vae = AutoModel.from_pretrained(str(source), subfolder=subfolder or None, low_cpu_mem_usage=False)
            self.vae = vae.eval().to(device)
            config = self.vae.config
            self.channels = int(config.latent_channels)
            self.stride = 2 ** (len(config.block_out_channels) - 1)
            self.video = any(p.ndim == 5 for p in self.vae.parameters())
            self.frame_stride = int(config.temporal_compression_ratio) if self.video else 1
            self.scale, self.shift = config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
        except (AttributeError, OSError, ValueError) as error:
            raise ValueError(f"{source} has no autoencoder that is read here: {error}") from error
        self.device = device

    def latent_frames(self, frames: int) -> int:
        """Latents of a video of so many frames.

        Raises:
            ValueError: there is none of that length.
        """
        if (frames - 1) % self.frame_stride:
            raise ValueError(
                f"{frames} frames: the autoencoder makes 1, or 1 more than a multiple of {self.frame_stride}"
            )
        return (frames - 1) // self.frame_stride + 1

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of latents: (B, 3, H, W) in [-1, 1] -> twice (B, C, H / stride, W / stride)."""
        pixels = pixels.to(self.device)
        posterior = self.vae.encode(pixels[:, :, None] if self.video else pixels).latent_dist
        mean, std = (posterior.mean - self.shift) * self.scale, posterior.std * self.scale
        return (mean[:, :, 0], std[:, :, 0]) if self.video else (mean, std)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in [-1, 1]: (B, C, h, w) -> (B, 3, H, W), or (B, C, f, h, w) -> (B, 3, F, H, W).

        An autoencoder of pictures decodes videos frame by frame.
        """
        latents = latents.to(self.device) / self.scale + self.shift
        if self.video:
            pixels = self.vae.decode(latents if latents.ndim == 5 else latents[:, :, None]).sample
            return (pixels if latents.ndim == 5 else pixels[:, :, 0]).clamp(-1, 1)
        frames = latents.transpose(1, 2).flatten(0, 1) if latents.ndim == 5 else latents
        # one at a time: at large sizes the decoder needs far more memory than the model
        pixels = torch.cat([self.vae.decode(frame[None]).sample for frame in frames]).clamp(-1, 1)
        return pixels.unflatten(0, (len(latents), -1)).transpose(1, 2) if latents.ndim == 5 else pixels


def check_size(model: nn.Module, height: int, width: int, autoencoder: Autoencoder | None = None) -> None:
    """Look whether ``model`` can draw pictures of that size.

    Raises:
        ValueError: the sides are not multiples of the autoencoder's stride times the model's patch.
    """
    patch, stride = model.cfg.patch_size, autoencoder.stride if autoencoder else 1
    if min(height, width) < 1 or height % (stride * patch) or width % (stride * patch):
        parts = f"patches of {patch}" + (f" latents of {stride} pixels" if autoencoder else "")
        raise ValueError(f"size {height}x{width}: both sides must be multiples of {stride * patch} ({parts})")


def check_channels(model: nn.Module, autoencoder: Autoencoder | None) -> None:
    """Look whether what ``model`` draws can be made visible.

    Raises:
        ValueError: it draws latents and there is no autoencoder, or one that has other latents.
    """
    if autoencoder and model.in_chans != autoencoder.channels:
        raise ValueError(
            f"the autoencoder's latents have {autoencoder.channels} channels, the model's {model.in_chans}"
        )
    if not autoencoder and model.in_chans not in (1, 3):
        raise ValueError(f"the model draws latents of {model.in_chans} channels: name their autoencoder")
