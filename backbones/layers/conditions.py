"""What a generator is conditioned on: a time, a class, a text."""

import torch
from torch import Tensor, nn

from backbones.kernels import sequential
from backbones.layers.sincos import sincos


class TimeEmbed(nn.Module):
    """Sinusoid of the time -> Linear -> SiLU -> Linear.

    timesteps: (B,), or one number for all -> (B, dim).

    Times stay float32 until they are sinusoids: bfloat16 would round 933.25 to 932.
    Cost: (time_chans + dim) * dim a sample.

    Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv:2212.09748.

    Args:
        dim: Channels.
        time_chans: Channels of the sinusoid.
    """

    def __init__(self, dim: int, time_chans: int = 256, device=None, dtype=None) -> None:
        super().__init__()
        self.time_chans = time_chans
        self.fc1 = nn.Linear(time_chans, dim, device=device, dtype=dtype)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal, std 0.02, as in DiT."""
        for fc in (self.fc1, self.fc2):
            nn.init.normal_(fc.weight, std=0.02)
            nn.init.zeros_(fc.bias)

    def forward(self, timesteps: Tensor | float, tokens: Tensor) -> Tensor:
        """Embed times.

        Args:
            timesteps: One number, or (B,).
            tokens: (B, ...), in whose type and on whose device the embedding is wanted.

        Raises:
            ValueError: If there are neither one nor B times.
        """
        batch = tokens.shape[0]
        t = torch.as_tensor(timesteps, device=tokens.device).to(torch.float32)
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != batch):
            raise ValueError(f"timesteps are one number or one a sample, ({batch},); got {list(t.shape)}")
        sine, cosine = sincos(t.expand(batch), self.time_chans).chunk(2, dim=-1)
        return sequential(torch.cat([cosine, sine], dim=-1).to(tokens.dtype), self.fc1, self.act, self.fc2)


class TextEmbed(nn.Module):
    """Linear -> GELU (tanh) -> Linear on the states of a text encoder (Chen et al., "PixArt-alpha", arXiv:2310.00426).

    context: (B, L, text_dim) -> (B, L, dim). Cost: (text_dim + dim) * dim a token.

    Args:
        text_dim: Width of the states.
        dim: Channels.
    """

    def __init__(self, text_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.fc1 = nn.Linear(text_dim, dim, device=device, dtype=dtype)
        self.act = nn.GELU("tanh")
        self.fc2 = nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward(self, context: Tensor | None, tokens: Tensor) -> Tensor:
        """Embed states, in the type of ``tokens`` (B, ...).

        Raises:
            ValueError: If there are none, or their shape is another.
        """
        batch, width = tokens.shape[0], self.text_dim
        if context is None:
            raise ValueError(f"this model reads a text: give context (B, L, {width}), of an empty text for none")
        if context.ndim != 3 or context.shape[0] != batch or context.shape[2] != width:
            raise ValueError(f"context is ({batch}, L, {width}), got {list(context.shape)}")
        return sequential(context.to(tokens.dtype), self.fc1, self.act, self.fc2)


def text_bias(mask: Tensor | None, text: Tensor) -> Tensor | None:
    """What is added to the scores so that a text's padding is not read; None if all of it is text.

    mask: (B, L), 1 where there is text and 0 where there is padding; text: (B, L, dim) -> (B, 1, 1, L).

    Raises:
        ValueError: If the mask has another shape than the text.
    """
    if mask is None:
        return None
    if mask.shape != text.shape[:2]:
        raise ValueError(f"context_mask is {list(text.shape[:2])}, got {list(mask.shape)}")
    # Finite, as released: a text that is all padding is averaged rather than undefined.
    return ((1 - mask.to(text.dtype)) * -10000)[:, None, None]


def class_labels(y: Tensor | None, tokens: Tensor, num_classes: int) -> Tensor:
    """Classes (B,) of ``tokens`` (B, ...); None means no class, which is class ``num_classes``.

    Raises:
        ValueError: If ``y`` are no integers, another number, or, on the CPU and uncompiled, out of range.
    """
    batch = tokens.shape[0]
    if y is None:
        return torch.full((batch,), num_classes, device=tokens.device)
    if y.shape != (batch,) or y.is_floating_point():
        raise ValueError(f"y is an integer class a sample, ({batch},); got {list(y.shape)} of {y.dtype}")
    # Elsewhere looking at the values would wait for the device, and a program's course cannot depend on them.
    look = y.device.type == "cpu" and y.numel() and not torch.compiler.is_compiling()
    if look and not 0 <= int(y.min()) <= int(y.max()) <= num_classes:
        raise ValueError(f"classes go from 0 to {num_classes - 1}, and {num_classes} stands for none; got {y.tolist()}")
    return y
