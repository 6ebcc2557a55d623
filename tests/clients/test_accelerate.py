"""accelerate: weights that are elsewhere until a layer is called, and a training loop that it prepares."""

import pytest
import torch
from accelerate import Accelerator, cpu_offload
from torch.utils.data import DataLoader

from tests.every_module import EVERY, close, inputs, lively, outputs_and_gradients

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("fast_kernels")]


@pytest.mark.parametrize("name", EVERY)
def test_cpu_offload(name: str) -> None:
    model, args = lively(name).eval(), inputs(name)
    with torch.no_grad():
        expected = model(*args)
        cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
        assert all(p.device.type == "meta" for p in model.parameters())
        for _ in range(2):
            torch.testing.assert_close(model(*args), expected)


@pytest.mark.parametrize("name", EVERY)
def test_a_step_of_training(name: str) -> None:
    """Two micro-batches accumulated are the batch."""
    model, args = lively(name).eval(), inputs(name, 4)  # norms of a batch would see halves of it
    expected = outputs_and_gradients(model, args)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(list(zip(*args, strict=True)), batch_size=2)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(*batch).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    scale = max(g.square().mean().sqrt().item() for g in expected.values())
    for key, p in accelerator.unwrap_model(model).named_parameters():
        if key in expected:
            close((before[key] - p.detach()) / 0.1, expected[key], key, scale)
