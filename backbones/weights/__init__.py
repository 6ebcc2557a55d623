"""Published weights: reading old checkpoints and renaming their keys."""

from backbones.weights.convert import convert_state_dict
from backbones.weights.read import read_checkpoint

__all__ = ["convert_state_dict", "read_checkpoint"]
