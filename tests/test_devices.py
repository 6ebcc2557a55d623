"""What a GPU asks of a model: tensors made where the input is, no value read back, and, where there is one, the same
numbers as on the CPU."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.every_module import EVERY, GENERATORS, inputs, lively

needs_gpu = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
IMAGES = [name for name in EVERY if name not in GENERATORS]

# operators that a GPU has to wait for: their results are read on the CPU
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_dim.default,
    aten._unique2.default,
}


def first(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def to(device: str, *tensors: Any) -> list[Any]:
    return [t.to(device) if isinstance(t, Tensor) else t for t in tensors]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_everything_is_where_the_input_is(name: str, training: bool, autocast: bool) -> None:
    """On tensors that say they are on a GPU and have no memory: PyTorch raises where devices or types do not agree."""
    model, args = lively(name).train(training), inputs(name)
    expected = first(model.eval()(*args))
    model.train(training)
    tensors = {key: t.detach() for key, t in (*model.named_parameters(), *model.named_buffers())}
    with FakeTensorMode() as mode:
        state = {key: mode.from_tensor(t).to("cuda") for key, t in tensors.items()}
        fake = to("cuda", *(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in args))
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            y = first(torch.func.functional_call(model, state, tuple(fake)))
    assert y.device.type == "cuda"
    assert y.shape == expected.shape
    assert torch.equal(first(model.eval()(*args)), expected)  # nothing fake was kept


class Reads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        boolean = func in (aten.index.Tensor, aten.index_put_.default) and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if func in READS or boolean:
            self.found[str(func)] += 1
        return func(*args, **kwargs or {})


def step(model: nn.Module, args: tuple[Any, ...]) -> Tensor:
    y = first(model(*args))
    y.float().square().mean().backward()
    return y.detach()


@pytest.mark.parametrize("name", EVERY)
def test_no_value_is_read_back(name: str) -> None:
    """After the first step at a size, which makes tables, a GPU never waits for the CPU."""
    model, args = lively(name).train(), inputs(name)
    step(model, args)
    with Reads() as reads:
        step(model, args)
    assert not reads.found


def test_reads_are_found() -> None:
    x = torch.arange(4.0)
    with Reads() as reads:
        x.sum().item()
        x[x > 1]
    assert reads.found.total() >= 2


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_gpu) for name in EVERY])
def test_outputs_and_gradients_of_the_gpu_are_those_of_the_cpu(name: str) -> None:
    model, args = lively(name).double().eval(), inputs(name)
    args = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)
    expected = step(model, args)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.cuda()
    torch.testing.assert_close(step(model, tuple(to("cuda", *args))).cpu(), expected)
    found = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_gpu) for name in EVERY])
def test_autocast_on_the_gpu(name: str, dtype: torch.dtype) -> None:
    model, args = lively(name).cuda().eval(), tuple(to("cuda", *inputs(name)))
    with torch.no_grad():
        expected = first(model(*args))
        with torch.autocast("cuda", dtype):
            y = first(model(*args)).float()
    assert (y - expected).abs().max() <= 0.05 * (expected.max() - expected.min())


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_gpu) for name in EVERY])
def test_the_gpu_is_never_waited_for(name: str) -> None:
    model, args = lively(name).cuda().train(), tuple(to("cuda", *inputs(name)))
    step(model, args)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(model, args)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_gpu) for name in IMAGES])
def test_maps_stay_channels_last_on_the_gpu(name: str) -> None:
    model = lively(name, features_only=True).cuda().eval()
    (x,) = to("cuda", *inputs(name))
    with torch.no_grad():
        maps = model(x.contiguous(memory_format=torch.channels_last))
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in maps)


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_gpu) for name in IMAGES])
def test_compiled_for_the_gpu(name: str) -> None:
    model, args = lively(name).cuda().eval(), tuple(to("cuda", *inputs(name)))
    with torch.no_grad():
        expected = model(*args)
        found = torch.compile(model, fullgraph=True)(*args)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
