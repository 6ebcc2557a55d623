"""Inside a model every map is (B, H, W, C) and contiguous: no layer gets another memory layout, nothing is re-laid.

Two views of one rule. The hooks see what a layer is given, which the kernel behind it would copy without a word; the
dispatch mode sees the copies that PyTorch makes outside its kernels.
"""

import inspect
import re
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import backbones
from backbones.kernels import set_fast_kernels

TINY = backbones.list_models("test_*")
PACKAGE = str(Path(backbones.__file__).parent)
# Side of an image that needs no padding anywhere, so that no crop is in the way; 224 fits most.
SIDES = {
    "test_halonet": 256,  # blocks of 8 pixels in a map of stride 32
    "test_van": 192,  # sub-grids of stride 3 in maps of stride 4 to 32
}
AT_SIDE = {"test_illama": "img_size", "test_sgformer": "img_size"}  # their tables are resized for other images

# Layers that are given a view which is not contiguous: model -> (pattern of their names, why).
STRIDED = {
    "test_halonet": (r"attn\.q|shortcut\.conv", "they see every second pixel, so what is copied is what is kept")
}
# Files whose functions copy without saying so in their docstring: (most copies in one call of a function, why).
_HEADS = "a batched product wants the rows of a head together, and its result has them so"
COPIES = {
    "attention.py": (3, _HEADS),
    "aggregated.py": (1, _HEADS),
    "causal_rope.py": (3, _HEADS),
    "channel_group.py": (4, _HEADS),
    "deformable.py": (1, "a kernel in the order of the samples; torchvision stores (B, C, H, W)"),
    "halo.py": (3, _HEADS),
    "planner.py": (2, "HaloNet's strided views; products of groups of channels"),
    "self_guided.py": (1, "the weights of all heads lie apart from those of one; an order by columns is transposed"),
}


def model_and_inputs(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name in backbones.list_models(task="generation"):
        torch.manual_seed(0)
        model = backbones.create_model(name).eval()
        return model, model.example_inputs(2, 32, 32)
    side = SIDES.get(name, 224)
    torch.manual_seed(0)
    options = {AT_SIDE[name]: side} if name in AT_SIDE else {}
    return backbones.create_model(name, num_classes=7, **options).eval(), (torch.randn(2, 3, side, side),)


def runs_without_copying(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer's kernel takes the memory of ``x`` as it is."""
    if isinstance(layer, nn.Linear) and x.ndim == 2:  # rows of a matrix, at any distance from each other
        return x.stride(1) == 1
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("name", TINY)
def test_layers_get_channels_last_maps(name: str, fast: bool, fast_kernels: None) -> None:
    set_fast_kernels(fast)
    model, inputs = model_and_inputs(name)
    seen: set[str] = set()
    wrong: dict[str, str] = {}

    def watch(key: str, layer: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.add(key)
            if not runs_without_copying(module, args[0]):
                wrong[key] = f"{key} gets {list(args[0].shape)} with strides {args[0].stride()}"

        layer.register_forward_pre_hook(hook)

    layers = {key: m for key, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for key, layer in layers.items():
        watch(key, layer)
    with torch.no_grad():
        model(*inputs)
    pattern, _ = STRIDED.get(name, ("$^", ""))
    assert not [text for key, text in wrong.items() if not re.search(pattern, key)]
    assert len(seen) > len(layers) / 2  # some are run by the module that holds them rather than called


class Clones(TorchDispatchMode):
    """Counts copies by the call of a function of this package that made them."""

    def __init__(self) -> None:
        super().__init__()
        self.makers: Counter[FrameType] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            frame = inspect.currentframe()
            while frame and not frame.f_code.co_filename.startswith(PACKAGE):
                frame = frame.f_back
            if frame:
                self.makers[frame] += 1
        return func(*args, **(kwargs or {}))


def says_that_it_copies(frame: FrameType) -> bool:
    docstring = frame.f_code.co_consts[0] if frame.f_code.co_consts else None
    return isinstance(docstring, str) and ("copies" in docstring or "re-laid" in docstring)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("name", TINY)
def test_copies_are_announced(name: str, fast: bool, fast_kernels: None) -> None:
    set_fast_kernels(fast)
    model, inputs = model_and_inputs(name)
    with torch.no_grad():
        model(*inputs)  # which makes its tables, once
        with Clones() as clones:
            model(*inputs)
    assert clones.makers  # at least the image's memory is re-laid: the mode sees what it should
    for frame, count in clones.makers.items():
        if not says_that_it_copies(frame):
            file, function = Path(frame.f_code.co_filename).name, frame.f_code.co_name
            most, _ = COPIES.get(file, (0, ""))
            assert count <= most, f"{function} in {file} copies {count} times a call; its docstring says nothing of it"
