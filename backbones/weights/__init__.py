"""Published weights: reading old checkpoints and renaming their keys."""

from backbones.weights.convert import convert_state_dict

__all__ = ["convert_state_dict"]
