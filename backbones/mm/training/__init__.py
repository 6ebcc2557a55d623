"""What the zoo's own training needs: data, hooks, checks before a run, and runs that repeat to the bit.

A config imports it: ``custom_imports = dict(imports=["backbones.mm.training"], allow_failed_imports=False)``.
"""

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
from .loading import LoadImage
from .seeding import SeededDataset, SeededSampler, SeedHook

__all__ = [
    "AtomicBackend",
    "BFloat16OptimWrapper",
    "CheckDataHook",
    "CheckSpaceHook",
    "DiffusionTrainer",
    "FiniteLossHook",
    "FlowLoss",
    "LatentImages",
    "LearningCurveHook",
    "LoadImage",
    "RunStopped",
    "SampleGridHook",
    "SeedHook",
    "SeededDataset",
    "SeededSampler",
    "build_digit_scenes",
    "build_digits",
    "write_digit_scenes",
    "write_digits",
]
