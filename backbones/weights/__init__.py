"""Published weights: where they are, fetching, reading old checkpoints, renaming keys."""

from backbones.weights.convert import convert_checkpoint, convert_state_dict, restore_state_dict
from backbones.weights.fetch import DownloadError
from backbones.weights.pretrained import find_weights, pretrained_file
from backbones.weights.read import read_checkpoint

__all__ = [
    "DownloadError",
    "convert_checkpoint",
    "convert_state_dict",
    "find_weights",
    "pretrained_file",
    "read_checkpoint",
    "restore_state_dict",
]
