"""What PyTorch makes of a whole model gives its numbers: function transforms, traces, copies, processes."""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.every_module import EVERY, close, inputs, lively, outputs_and_gradients

TESTS = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("fast_kernels")


def all_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(t.square().mean().sqrt().item() for t in expected.values())
    for key in expected:
        close(found[key], expected[key], key, scale)


def loss(model: nn.Module) -> Callable[..., Tensor]:
    def call(params: dict[str, Tensor], *args: Tensor) -> Tensor:
        return functional_call(model, params, tuple(x[None] for x in args)).square().mean()

    return call


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_samples(name: str) -> None:
    """``vmap(grad(...))`` gives what a loop over the samples gives."""
    model, args = lively(name).eval(), inputs(name, 3)
    params = dict(model.named_parameters())
    found = vmap(grad(loss(model)), (None, *(0 for _ in args)))(params, *args)
    for i in range(3):
        expected = outputs_and_gradients(model, tuple(x[i : i + 1] for x in args))
        del expected[""]
        all_close({key: value[i].detach() for key, value in found.items()}, expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", EVERY)
def test_a_trace(name: str) -> None:
    """With gradients and without; the tracer's own check, which runs the model twice, is on."""
    model, args = lively(name).eval(), inputs(name)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            traced = torch.jit.trace(model, args)
            close(traced(*args).detach(), model(*args).detach())


@pytest.mark.parametrize("name", EVERY)
def test_double_backward(name: str) -> None:
    """The gradient of a slope of the loss is that of differences of slopes. PyTorch's fused attention has none."""
    model, (x, *rest) = lively(name).eval(), inputs(name, 1, 64, 64)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def slope(x: Tensor, create_graph: bool = False) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x, *rest).square().sum(), x, create_graph=create_graph)
        return (gradient * direction).sum()

    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.autograd.grad(slope(x, create_graph=True), parameters, allow_unused=True)
        moved = [(p, g) for p, g in zip(parameters, found) if g is not None]
        size = sum(g.square().sum() for _, g in moved).sqrt()
        assert size > 0
        step = 1e-3 / size  # along the gradient, where a difference is largest
        slopes = []
        for sign in (1, -2):
            with torch.no_grad():
                for p, g in moved:
                    p += sign * step * g
            slopes.append(slope(x))
    torch.testing.assert_close((slopes[0] - slopes[1]) / (2 * step), size.square(), rtol=0.05, atol=0.0)


# Copies --------------------------------------------------------------------------------------------------------------


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def shared(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).share_memory()
    assert all(t.is_shared() for t in model.state_dict().values())
    return model


def averaged(model: nn.Module) -> nn.Module:
    """The mean of a model and itself is the model."""
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(2):
        average.update_parameters(model)
    return average.module


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved, shared, averaged], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", EVERY)
def test_copies_are_the_model(name: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    """After a step, so that whatever a pass leaves in a module goes along; and they are trained apart from it."""
    model, args = lively(name), inputs(name)
    expected = outputs_and_gradients(model.eval(), args)
    twin = copied(model)
    all_close(outputs_and_gradients(twin, args), expected)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    all_close(outputs_and_gradients(model, args), expected)


@pytest.mark.parametrize("name", EVERY)
def test_functional_call(name: str) -> None:
    """Other parameters take effect, and the model keeps its own."""
    model, args = lively(name).eval(), inputs(name)
    other = {key: 0.9 * p.detach() for key, p in model.named_parameters()}
    twin = copy.deepcopy(model)
    twin.load_state_dict(other, strict=False)
    with torch.no_grad():
        before = model(*args)
        found = functional_call(model, other, args)
        close(found, twin(*args))
        assert not torch.allclose(found, before)
        assert torch.equal(model(*args), before)


# Processes -----------------------------------------------------------------------------------------------------------


def _sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for stage in model.stages:
        for block in stage.blocks:
            fully_shard(block)
    return fully_shard(model)


def _train(rank: int, init: str, out: str) -> None:
    """One of two processes trains every model on its half of the batch, by DDP and by FSDP2."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=2)
    results: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name in EVERY:
        half = tuple(x[rank::2] for x in inputs(name, 4))
        results[name] = {}
        for kind, wrap in (("DDP", nn.parallel.DistributedDataParallel), ("FSDP2", _sharded)):
            model: Any = wrap(lively(name).eval())  # norms of a batch see half of it in either process
            model(*half).square().mean().backward()
            module = model.module if kind == "DDP" else model
            gradients = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
            if kind == "FSDP2":
                gradients = {key: g.full_tensor() for key, g in gradients.items()}
            results[name][kind] = gradients
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def gradients_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    # a package of the same name as this folder may be installed
    code = f"import sys, types; tests = sys.modules['tests'] = types.ModuleType('tests'); tests.__path__ = ['{TESTS}']"
    code += "; from tests.test_transforms import _train; _train(int(sys.argv[1]), *sys.argv[2:])"
    files = str(folder / "init"), str(folder / "gradients.pt")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), *files], cwd=TESTS.parent, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    return torch.load(folder / "gradients.pt")


@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
@pytest.mark.parametrize("name", EVERY)
def test_two_processes(name: str, kind: str, gradients_of_two_processes: dict) -> None:
    """Their gradients are those of one process with the whole batch."""
    expected = outputs_and_gradients(lively(name).eval(), inputs(name, 4))
    del expected[""]
    all_close(gradients_of_two_processes[name][kind], expected)
