"""opacus: gradients of single samples are those of a loop, and a private step is taken.

Its own rule for convolutions misreads channels-last maps (of any model), and its general rule knows modules of one
input only. docs/clients.md says the same.
"""

import pytest
import torch
from opacus import GradSampleModule, PrivacyEngine
from opacus.grad_sample import register_grad_sampler
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, TensorDataset

from backbones.layers import TokenMerge
from tests.every_module import EVERY, close, inputs, lively, outputs_and_gradients
from tests.test_models import TINY

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("fast_kernels")]


def samples_of_token_merge(layer: TokenMerge, activations: list[Tensor], gradients: Tensor) -> dict[Tensor, Tensor]:
    plain = TokenMerge(layer.start, layer.stop, layer.weight.shape[1])  # without opacus' hooks

    def loss(params: dict[str, Tensor], x: Tensor, order: Tensor, gradient: Tensor) -> Tensor:
        return (functional_call(plain, params, (x[None], order[None])) * gradient).sum()

    params = dict(layer.named_parameters())
    found = vmap(grad(loss), (None, 0, 0, 0))(params, *activations, gradients)
    return {p: found[key] for key, p in params.items()}


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradSampleModule, "GRAD_SAMPLERS", dict(GradSampleModule.GRAD_SAMPLERS))
    GradSampleModule.GRAD_SAMPLERS.pop(nn.Conv2d)
    register_grad_sampler(TokenMerge)(samples_of_token_merge)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_samples(name: str) -> None:
    model, args = freeze_batch_norm_2d(lively(name)), inputs(name, 3)
    samples = [outputs_and_gradients(model, tuple(x[i : i + 1] for x in args)) for i in range(3)]
    private = GradSampleModule(model, loss_reduction="sum", strict=False)
    private(*args).square().flatten(1).mean(1).sum().backward()
    found = {key: p.grad_sample for key, p in model.named_parameters()}
    for i, expected in enumerate(samples):
        del expected[""]
        scale = max(g.square().mean().sqrt().item() for g in expected.values())
        for key, g in expected.items():
            close(found[key][i], g, key, scale)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", TINY)
def test_a_private_step(name: str) -> None:
    model = freeze_batch_norm_2d(lively(name)).train()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(inputs(name, 4)[0], torch.arange(4)), batch_size=2)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0,
        poisson_sampling=False,
    )  # fmt: skip
    for x, target in loader:
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not [key for key, p in model._module.named_parameters() if torch.equal(p, before[key])]
