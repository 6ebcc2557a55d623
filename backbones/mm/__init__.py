"""What MMEngine, MMPretrain, MMDetection and MMSegmentation need to train the zoo.

A config imports it: ``custom_imports = dict(imports=["backbones.mm"], allow_failed_imports=False)``.
"""

from .backbone import ZooBackbone
from .compat import leave_out_multimodal_models
from .digit_scenes import build_digit_scenes, write_digit_scenes
from .digits import build_digits, write_digits
from .hooks import AtomicBackend, CheckImagesHook, LearningCurveHook
from .layer_decay import LayerDecayConstructor
from .soft_mask import SoftMaskHook

leave_out_multimodal_models()

__all__ = [
    "AtomicBackend",
    "CheckImagesHook",
    "LayerDecayConstructor",
    "LearningCurveHook",
    "SoftMaskHook",
    "ZooBackbone",
    "build_digit_scenes",
    "build_digits",
    "write_digit_scenes",
    "write_digits",
]
