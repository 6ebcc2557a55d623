"""peft and LyCORIS: every adapter is trained, takes effect, and is the same merged into the weights."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from lycoris import create_lycoris
from torch import Tensor, nn

from tests.every_module import EVERY, inputs, lively

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("fast_kernels")]


def equal(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the outputs' size; SG-Former's sort may exchange tokens that rounding makes alike."""
    assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


def trains(model: nn.Module, args: tuple[Any, ...], adapters: dict[str, Tensor]) -> None:
    """A step, in which every adapter has a gradient and moves."""
    assert adapters
    optimizer = torch.optim.AdamW([p for p in adapters.values()], lr=1e-3)
    before = {key: p.detach().clone() for key, p in adapters.items()}
    model(*args).square().mean().backward()
    assert not [key for key, p in adapters.items() if p.grad is None or not p.grad.any()]
    optimizer.step()
    assert not [key for key, p in adapters.items() if torch.equal(p, before[key])]


def convolutions(model: nn.Module) -> list[str]:
    """Those that peft takes, with ranks of 4, and can merge."""
    return [key for key, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]


def linear_layers(model: nn.Module) -> list[str]:
    return [key for key, m in model.named_modules() if isinstance(m, nn.Linear)]


TARGETS: dict[str, Callable[[nn.Module], Any]] = {
    "all-linear": lambda model: "all-linear",
    "convolutions": lambda model: linear_layers(model) + convolutions(model),
}


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", EVERY)
def test_peft(name: str, targets: str, dora: bool) -> None:
    base, args = lively(name).eval(), inputs(name)
    with torch.no_grad():
        without = base(*args)
    count = len(linear_layers(base)) + (len(convolutions(base)) if targets == "convolutions" else 0)
    cfg = peft.LoraConfig(r=4, target_modules=TARGETS[targets](base), use_dora=dora, init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, cfg)
    adapters = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert sum("lora_A" in key for key in adapters) == count
    with torch.no_grad():  # of a size that leaves the outputs' as it is
        for key, p in adapters.items():
            if "lora_" in key and "magnitude" not in key:
                p.mul_(0.3)
    trains(model, args, adapters)
    with torch.no_grad():
        apart = model(*args)
        assert (apart - without).std() > 0.01 * without.std()
        model.merge_adapter()
        equal(model(*args), apart)
        model.unmerge_adapter()
        equal(model(*args), apart)
        equal(model.merge_and_unload()(*args), apart)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("name", EVERY)
def test_lycoris(name: str, algorithm: str) -> None:
    base, args = lively(name).eval(), inputs(name)
    with torch.no_grad():
        without = base(*args)
    torch.manual_seed(0)
    network = create_lycoris(base, 1.0, linear_dim=4, linear_alpha=4, algo=algorithm)
    layers = [m for m in base.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert len(network.loras) == len(layers)
    network.apply_to()
    with torch.no_grad():  # one of each pair of factors is zero
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    for p in base.parameters():
        p.requires_grad_(False)
    trains(base, args, dict(network.named_parameters()))
    with torch.no_grad():
        apart = base(*args)
        assert (apart - without).std() > 0.01 * without.std()
        network.restore()
        equal(base(*args), without)
        network.merge_to(1.0)
        equal(base(*args), apart)
