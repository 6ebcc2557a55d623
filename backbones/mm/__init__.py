"""What MMEngine, MMPretrain, MMDetection and MMSegmentation need to train the zoo.

A config imports it: ``custom_imports = dict(imports=["backbones.mm"], allow_failed_imports=False)``.
"""

from .backbone import ZooBackbone
from .digits import build_digits, write_digits
from .hooks import AtomicBackend, CheckImagesHook, LearningCurveHook
from .soft_mask import SoftMaskHook

__all__ = [
    "AtomicBackend",
    "CheckImagesHook",
    "LearningCurveHook",
    "SoftMaskHook",
    "ZooBackbone",
    "build_digits",
    "write_digits",
]
