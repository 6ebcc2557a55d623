"""What tests of all modules of all models share: models whose every parameter matters, and roles of modules."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import backbones
from backbones.kernels import use_fast_kernels
from backbones.layers import LogPositionBias
from tests.test_models import ANY_SIZE

EVERY = backbones.list_models("test_*")
GENERATORS = backbones.list_models("test_*", task="generation")
# One block of each kind, where a tiny model has more: a second one shows nothing new, and takes exporters seconds.
SHALLOW: dict[str, dict[str, Any]] = {
    "test_attnet": {"depths": (1, 0, 0, 1)},
    "test_davit": {"depths": (1, 0, 0, 1)},
    "test_dinat": {"depths": (2, 0, 0, 0)},
    "test_dinat_s": {"depths": (2, 0, 0, 0)},
    "test_halonet": {"depths": (1, 1, 1, 1)},
    "test_illama": {"depths": (1,)},
    "test_litv2": {"depths": (1, 1, 1, 1)},  # with fewer, differences meet kinks of deformable convolutions
    "test_moh": {"depths": (1, 0, 0, 1)},
    "test_nat": {"depths": (1, 0, 0, 1)},
    "test_nat_moh": {"depths": (1, 0, 0, 1)},
    "test_ptdit": {"depth": 2},
    "test_sgformer": {"depths": (2, 0, 0, 1)},
    "test_stvit": {"depths": (1, 0, 0, 1)},
    "test_transnext": {"depths": (1, 0, 0, 1)},
    "test_van": {"depths": (1, 0, 0, 1)},
}


def lively(name: str, **kwargs: Any) -> nn.Module:
    """A tiny model with one block of each kind, in which no constant hides a layer.

    Zeros, ones and scales of 1e-6 are drawn anew.
    """
    torch.manual_seed(0)
    options = {} if name in GENERATORS else {"num_classes": 7, **ANY_SIZE.get(name, {})}
    model = backbones.create_model(name, **options | SHALLOW.get(name, {}) | kwargs)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() > 1 and p.std() < 1e-3:
                p.copy_((p if p.mean() > 0.5 else 0) + 0.2 * torch.randn_like(p))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, LogPositionBias):  # of small coordinates, and nearly constant as it begins
                module.fc2.weight.normal_(0, 0.2)
    return model


def inputs(name: str, batch: int = 2, height: int = 64, width: int = 96) -> tuple[Any, ...]:
    """Images (B, 3, height, width), or what a generator takes for pictures of that size, with a batch of conditions."""
    generator = torch.Generator().manual_seed(1)
    if name in GENERATORS:
        latents = torch.randn(batch, 4, height // 8, width // 8, generator=generator)
        return latents, torch.linspace(100, 900, batch)
    return (torch.randn(batch, 3, height, width, generator=generator),)


def roles(model: nn.Module, kind: type | tuple[type, ...] = nn.Module) -> dict[str, list[tuple[str, nn.Module]]]:
    """Modules of a kind that do the same in different blocks: "stages.*.blocks.*.mlp.fc1" -> [(name, module), ...]"""
    found: dict[str, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, kind):
            found.setdefault(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name), []).append((name, module))
    return found


@contextmanager
def plain() -> Iterator[None]:
    """The plain form of every layer."""
    with use_fast_kernels(False):
        yield


def close(found: Tensor, expected: Tensor, message: str = "", scale: float = 0.0, part: float = 0.01) -> None:
    """Equal within a hundredth in the mean square, which rounding does not reach and a layer left out does.

    Not element by element: rounding reorders the tokens that SG-Former sorts, and turns noise where a sum cancels.

    Args:
        scale: A size, as a root mean square, of which a ten-thousandth is noise.
        part: Of the size, what may differ.
    """
    assert found.shape == expected.shape, message
    found, expected = found.double(), expected.double()
    error, size = (found - expected).norm().item(), expected.norm().item()
    assert error <= part * size + 1e-4 * max(scale, 1e-3) * expected.numel() ** 0.5, f"{message}: {error} of {size}"


def outputs_and_gradients(model: nn.Module, args: tuple[Any, ...], call: Callable | None = None) -> dict[str, Tensor]:
    """Output of a call in training and the gradients of all parameters, by name; ``""`` is the output."""
    model.zero_grad()
    y = (call or model)(*args)
    y.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"": y.detach(), **gradients}
