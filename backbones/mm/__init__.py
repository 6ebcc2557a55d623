"""What MMEngine, MMPretrain, MMDetection and MMSegmentation need to train the zoo.

A config imports it: ``custom_imports = dict(imports=["backbones.mm"], allow_failed_imports=False)``.
"""

from .backbone import ZooBackbone
from .compat import leave_out_multimodal_models
from .diffusion import DiffusionTrainer, FlowLoss, LatentImages, SampleGridHook
from .digit_scenes import build_digit_scenes, write_digit_scenes
from .digits import build_digits, write_digits
from .hooks import (
    AtomicBackend,
    BFloat16OptimWrapper,
    CheckDataHook,
    CheckSpaceHook,
    FiniteLossHook,
    LearningCurveHook,
    RunStopped,
)
from .layer_decay import LayerDecayConstructor
from .seeding import SeededDataset, SeededSampler, SeedHook
from .soft_mask import SoftMaskHook

leave_out_multimodal_models()

__all__ = [
    "AtomicBackend",
    "BFloat16OptimWrapper",
    "CheckDataHook",
    "CheckSpaceHook",
    "DiffusionTrainer",
    "FiniteLossHook",
    "FlowLoss",
    "LatentImages",
    "LayerDecayConstructor",
    "LearningCurveHook",
    "RunStopped",
    "SampleGridHook",
    "SeedHook",
    "SeededDataset",
    "SeededSampler",
    "SoftMaskHook",
    "ZooBackbone",
    "build_digit_scenes",
    "build_digits",
    "write_digit_scenes",
    "write_digits",
]
