"""From prompts to what text-to-image models read: T5's states."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.diffusion.folders import find_part

__all__ = ["TextEncoder"]


class TextEncoder:
    """T5's encoder and its tokenizer, from ``transformers``.

    Attributes:
        width: of the states.

    Args:
        source: folder or repository of the hub, with both in it or in its subfolders ``text_encoder`` and
            ``tokenizer``.
        max_length: tokens that a prompt is padded or cut to; 200 in the release.
        device: where to run.

    Raises:
        ValueError: they are not found, or cannot be read.
    """

    def __init__(self, source: str | os.PathLike, max_length: int = 200, device: str | torch.device = "cpu") -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        tokenizer = find_part(source, "tokenizer", "tokenizer_config.json")
        encoder = find_part(source, "text_encoder")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(source), subfolder=tokenizer)
            self.encoder = T5EncoderModel.from_pretrained(str(source), subfolder=encoder).eval().to(device)
        except (OSError, ValueError) as error:
            raise ValueError(f"{source} has no T5 that transformers reads: {error}") from error
        self.width = int(self.encoder.config.d_model)
        self.max_length = max_length
        self.device = device

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, max_length, width) and mask (B, max_length), 1 where there is text."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        return self.encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state, tokens.attention_mask
