"""Published weights: where they are, fetching, reading old checkpoints, renaming keys."""

from backbones.weights.convert import (
    Conversion,
    Fit,
    Published,
    compare,
    convert_checkpoint,
    convert_state_dict,
    restore_state_dict,
)
from backbones.weights.fetch import DownloadError
from backbones.weights.layouts import Layout
from backbones.weights.pretrained import find_weights, load_checkpoint, pretrained_file
from backbones.weights.read import read_checkpoint

__all__ = [
    "Conversion",
    "DownloadError",
    "Fit",
    "Layout",
    "Published",
    "compare",
    "convert_checkpoint",
    "convert_state_dict",
    "find_weights",
    "load_checkpoint",
    "pretrained_file",
    "read_checkpoint",
    "restore_state_dict",
]
