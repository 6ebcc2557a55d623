"""The planner: what it fuses equals the steps one after the other, and whatever is done to a step takes effect."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from backbones.kernels import (
    Machine,
    gated,
    glu,
    matmul,
    planner,
    sequential,
    shortcut,
    to_nchw,
    to_nhwc,
    use_fast_kernels,
)
from backbones.layers import ConvGLU, ConvMlp, Mlp, SwiGLU


def depthwise(dim: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


def norm(dim: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(dim)
    for t in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(t)
    layer.running_var.uniform_(0.5, 2)
    return layer.eval()


def rms_norm(dim: int) -> nn.RMSNorm:
    layer = nn.RMSNorm(dim, eps=1e-6)
    nn.init.normal_(layer.weight)
    return layer


BLOCKS: dict[str, Callable[[], list]] = {
    "linear": lambda: [nn.Linear(6, 9)],
    "Mlp": lambda: [nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6)],
    "tanh": lambda: [nn.Linear(6, 9), nn.GELU("tanh"), nn.Linear(9, 6, bias=False)],
    "relu": lambda: [nn.Linear(6, 9, bias=False), nn.ReLU(inplace=True), nn.Linear(9, 6)],
    "silu": lambda: [nn.Linear(6, 9), nn.SiLU()],
    "container": lambda: [to_nchw, nn.Sequential(nn.Conv2d(6, 9, 3), nn.GELU(), norm(9)), to_nhwc, nn.Linear(9, 6)],
    "two linear": lambda: [nn.Linear(6, 9), nn.Identity(), nn.Linear(9, 6)],
    "ConvMlp": lambda: [nn.Linear(6, 9), to_nchw, depthwise(9), to_nhwc, nn.GELU(), nn.Linear(9, 6)],
    "act first": lambda: [nn.Linear(6, 9), nn.GELU(), to_nchw, shortcut(depthwise(9)), to_nhwc, nn.Linear(9, 6)],
    "norm": lambda: [nn.Linear(6, 9, bias=False), to_nchw, norm(9), to_nhwc, nn.ReLU(), nn.Linear(9, 6)],
    "convolutions": lambda: [to_nchw, nn.Conv2d(6, 9, 3, 2, 1), norm(9), nn.GELU(), nn.Conv2d(9, 6, 3), to_nhwc],
    "pre-norm": lambda: [shortcut(to_nchw, norm(6), to_nhwc, nn.Linear(6, 6), LayerScale(6, 0.5), nn.Identity())],
    "glu": lambda: [nn.Linear(6, 18), glu(to_nchw, depthwise(9), to_nhwc, nn.GELU()), nn.Linear(9, 6)],
    "glu, norm": lambda: [nn.Linear(6, 18, bias=False), glu(nn.SiLU()), rms_norm(9), nn.Linear(9, 6)],
    "glu first": lambda: [glu(to_nchw, depthwise(3), depthwise(3), nn.ReLU(), to_nhwc), nn.Linear(3, 6)],
    "glu last": lambda: [nn.Linear(6, 18), glu(nn.GELU("tanh"))],
    "glu, unknown": lambda: [nn.Linear(6, 18), glu(nn.LayerNorm(9), nn.GELU()), rms_norm(9), nn.Linear(9, 12)],
    "RMSNorm": lambda: [rms_norm(6), nn.Linear(6, 4, bias=False), rms_norm(4), nn.GELU(), nn.RMSNorm(4)],
    "unknown": lambda: [nn.Linear(6, 9), nn.LayerNorm(9), nn.GELU(), nn.Dropout(0.0), nn.Linear(9, 6)],
}


def normed_glu(dim: int, hidden_dim: int) -> ConvGLU:
    mlp = ConvGLU(dim, hidden_dim, norm=True)
    mlp.norm.eps = 0.1  # else the norm hides the factors by which layers are changed
    return mlp


def one_after_the_other(x: Tensor, *steps: Callable[[Tensor], Tensor]) -> Tensor:
    for step in steps:
        if isinstance(step, shortcut):
            x = x + one_after_the_other(x, *step.layers)
        elif isinstance(step, glu):
            half = x.shape[-1] // 2
            x = one_after_the_other(x[..., :half], *step.layers) * x[..., half:]
        else:
            x = step(x)
    return x


def parameters(steps: list) -> Iterator[nn.Parameter]:
    for step in steps:
        yield from (
            parameters(list(step.layers))
            if isinstance(step, shortcut | glu)
            else (step.parameters() if isinstance(step, nn.Module) else ())
        )


@pytest.fixture(params=[1, 2**30], ids=["chunks", "whole"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("backbones.kernels.memory.CHUNK_BYTES", request.param)
    monkeypatch.setattr(planner, "_RECOMPUTED_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("recompute", [True, False], ids=["recomputed", "stored"])
@pytest.mark.parametrize("block", BLOCKS)
def test_equals_the_steps(
    block: str, recompute: bool, chunk_bytes: int, any_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs, gradients, and gradients of gradients."""
    torch.manual_seed(0)
    if recompute:
        monkeypatch.setattr(planner, "_is_cheap", partial(is_always_cheap, planner._is_cheap))
    steps, x = BLOCKS[block](), torch.randn(3, 9, 8, 6, requires_grad=True)
    wanted, results = [x, *parameters(steps)], []
    for run in (sequential, one_after_the_other):
        y = run(x, *steps)
        with torch.no_grad():
            torch.testing.assert_close(run(x, *steps), y, atol=1e-5, rtol=1e-5)
        dy = torch.linspace(-1, 1, y.numel()).view_as(y)
        once = torch.autograd.grad(y, wanted, dy, retain_graph=True)
        graph = torch.autograd.grad(y, wanted, dy, create_graph=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in graph), x, allow_unused=True)
        results.append((y, *once, *graph, *(t for t in twice if t is not None)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def is_always_cheap(is_cheap: Callable, x: Tensor, layer: nn.Linear, between: list) -> bool:
    """``_is_cheap`` for maps of any size."""
    wide = torch.empty(1, device="meta").expand(2**24, layer.in_features)
    return is_cheap(wide, layer, between)


@pytest.mark.parametrize("shape", [(24,), (2, 70, 24), (0, 5, 24)], ids=str)
def test_any_leading_dimensions(shape: tuple[int, ...], any_machine: Machine) -> None:
    steps, x = [nn.Linear(24, 10), nn.GELU(), nn.Linear(10, 24)], torch.randn(shape)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(sequential(x, *steps), one_after_the_other(x, *steps), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gates_take_a_pair(bias: bool, chunk_bytes: int, any_machine: Machine) -> None:
    torch.manual_seed(0)
    layer, pair = nn.Linear(24, 10, bias=bias), [torch.randn(2, 70, 24, requires_grad=True) for _ in range(2)]
    expected = layer(F.silu(pair[0]) * pair[1])
    y = sequential(tuple(pair), gated(nn.SiLU()), layer)
    torch.testing.assert_close(y, expected)
    for found, wanted in zip(*(torch.autograd.grad(z.square().sum(), pair) for z in (y, expected)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pixels", [4, 40])
def test_a_matrix_an_image_meets_the_projection_where_pixels_pay(pixels: int, any_machine: Machine) -> None:
    torch.manual_seed(0)
    layer, x, matrix = nn.Linear(12, 12), torch.randn(3, pixels, 12, requires_grad=True), torch.randn(3, 2, 6, 6)
    expected = torch.cat([layer.weight[:, i : i + 6] @ matrix[:, i // 6].mT @ x[..., i : i + 6].mT for i in (0, 6)], 2)
    expected = (expected[..., :pixels] + expected[..., pixels:]).mT + layer.bias
    with patch.object(planner, "_matmul_linear", side_effect=planner._matmul_linear) as fused:
        torch.testing.assert_close(sequential(x, matmul(matrix), layer), expected, atol=1e-4, rtol=1e-4)
    assert fused.called == (pixels > 12)


def test_what_is_stored_for_the_backward_pass() -> None:
    """Of an activation only its input; of wide hidden maps from few channels nothing."""
    sizes: list[int] = []

    def stored(run: Callable[[], Tensor]) -> list[int]:
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            run()
        return sizes

    mlp, x = Mlp(24, 100), torch.randn(2, 70, 24, requires_grad=True)
    assert stored(lambda: mlp.fc2(mlp.act(mlp.fc1(x)))).count(2 * 70 * 100) >= 2
    assert stored(lambda: mlp(x)).count(2 * 70 * 100) == 1
    wide, x = ConvMlp(4, 256), torch.randn(2, 129, 128, 4, requires_grad=True)  # above 32 MiB
    assert 2 * 129 * 128 * 256 not in stored(lambda: wide(x))
    assert 128 * 128 * 256 in stored(lambda: wide(x[:1, :128]))
    mlp, x = ConvGLU(8, 20, norm=True), torch.randn(1, 9, 10, 8, requires_grad=True)
    assert stored(lambda: mlp(x)).count(90 * 20) == 3  # before and after the convolution, and the other half


def test_what_is_frozen_gets_no_gradient() -> None:
    mlp, x = Mlp(24, 10), torch.randn(2, 70, 24)
    mlp.fc2.weight.requires_grad_(False)
    mlp(x).sum().backward()
    assert mlp.fc2.weight.grad is None and mlp.fc2.bias.grad is not None
    mlp.requires_grad_(False)
    x.requires_grad_()
    mlp(x).sum().backward()
    assert x.grad is not None and mlp.fc2.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Mlp, ConvMlp, SwiGLU, ConvGLU, normed_glu])
def test_follows_autocast(kind: type, dtype: torch.dtype, any_machine: Machine) -> None:
    torch.manual_seed(0)
    block, x = kind(6, 10), torch.randn(5, 9, 8, 6, requires_grad=True)
    results = []
    for fast in (True, False):
        with use_fast_kernels(fast), torch.autocast("cpu", dtype):
            y = block(x)
            with torch.no_grad():
                torch.testing.assert_close(block(x), y, atol=0.05, rtol=0.05)
        assert y.dtype == dtype
        results.append((y.float(), *torch.autograd.grad(y.float().sum(), (x, *block.parameters()))))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.02 * expected.abs().max().item(), rtol=0.05)


def test_sums_over_chunks_have_float32(monkeypatch: pytest.MonkeyPatch, fast_kernels: None) -> None:
    """In bfloat16, 256 and one more is 256."""
    monkeypatch.setattr(planner, "_RECOMPUTED_BYTES", 1)  # a row at a time
    layer, x = nn.Linear(4, 2), torch.ones(1000, 4)
    with torch.autocast("cpu", torch.bfloat16):
        sequential(x, nn.ReLU(), layer).float().sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 4), 1000.0))


def test_wrong_types_are_refused_as_by_pytorch() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        sequential(torch.randn(100, 4), nn.Linear(4, 2).bfloat16())


# Whatever is done to a step takes effect ------------------------------------------------------------------------------


class Adapter(nn.Module):
    """What libraries of adapters put in the place of a layer: its result and something more."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.gain = layer, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.gain * self.layer(x).tanh()


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def replace_forward(block: nn.Module, name: str) -> None:
    layer = block.get_submodule(name)
    forward = layer.forward
    layer.forward = lambda *args: 2 * forward(*args)


def adapt(block: nn.Module, name: str) -> None:
    setattr(block, name, Adapter(getattr(block, name)))


def hook(block: nn.Module, name: str) -> None:
    block.get_submodule(name).register_forward_hook(lambda module, args, output: 2 * output)


def pre_hook(block: nn.Module, name: str) -> None:
    double = lambda x: tuple(map(double, x)) if isinstance(x, tuple) else 2 * x  # noqa: E731
    block.get_submodule(name).register_forward_pre_hook(lambda module, args: double(args))


def subclass(block: nn.Module, name: str) -> None:
    layer = block.get_submodule(name)

    class Another(type(layer)):  # type: ignore[misc]
        def forward(self, *args: Tensor) -> Tensor:
            return 2 * super().forward(*args)

    layer.__class__ = Another


def parametrized(block: nn.Module, name: str) -> None:
    parametrize.register_parametrization(block.get_submodule(name), "weight", Doubled())


def pruned(block: nn.Module, name: str) -> None:
    prune.l1_unstructured(block.get_submodule(name), "weight", 0.5)


CHANGES = {f.__name__: f for f in (replace_forward, adapt, hook, pre_hook, subclass, parametrized, pruned)}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [Mlp, ConvMlp, SwiGLU, ConvGLU, normed_glu])
def test_changes_of_a_layer_take_effect(kind: type, change: str, grad: bool, any_machine: Machine) -> None:
    torch.manual_seed(0)
    original, x = kind(6, 10), torch.randn(3, 9, 8, 6)
    for name, layer in original.named_children():
        if change in ("parametrized", "pruned") and not hasattr(layer, "weight"):
            continue
        block = copy.deepcopy(original)
        CHANGES[change](block, name)
        with use_fast_kernels(False):
            expected, before = block(x), original(x)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
        assert (expected - before).abs().max() > 1e-3, name
        if grad:
            block(x).square().sum().backward()
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters()), name
            block(x).square().sum().backward()  # a second time


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("everywhere", [True, False], ids=["global", "own"])
@pytest.mark.parametrize("kind", [Mlp, ConvMlp, SwiGLU, ConvGLU, normed_glu])
def test_hooks_see_the_whole_batch_once(kind: type, everywhere: bool, grad: bool, chunk_bytes: int) -> None:
    block, x, seen = kind(6, 10), torch.randn(3, 9, 8, 6), []

    def look(module: nn.Module, args: tuple, output: Tensor) -> None:
        seen.append((module, len(output)))

    if everywhere:
        handles = [nn.modules.module.register_module_forward_hook(look)]
    else:
        handles = [child.register_forward_hook(look) for child in block.children()]
    try:
        with torch.set_grad_enabled(grad):
            block(x)
    finally:
        for handle in handles:
            handle.remove()
    assert {module for module, _ in seen} >= set(block.children()) and {images for _, images in seen} == {3}
    assert len(seen) == len(set(seen))
    seen.clear()
    block(x)
    assert not seen


def test_hooks_on_gradients_are_called() -> None:
    mlp, seen = Mlp(6, 10), []
    mlp.fc2.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output))
    mlp(torch.randn(2, 9, 8, 6)).sum().backward()
    assert len(seen) == 1


def test_a_block_that_knows_nothing_of_speed_is_right() -> None:
    """It calls its layers itself, in an order and with a reuse that no table foresees."""

    class Naive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.conv = nn.Linear(6, 6), nn.LayerNorm(6), depthwise(6)

        def forward(self, x: Tensor) -> Tensor:
            y = sequential(self.fc(x), self.fc, self.norm, torch.relu, self.fc)
            return x + sequential(y, to_nchw, self.conv, torch.tanh, self.conv, to_nhwc)

    block, x = Naive(), torch.randn(2, 9, 8, 6, requires_grad=True)
    y = block(x)
    with use_fast_kernels(False):
        expected = block(x)
    torch.testing.assert_close(y, expected)
    for found, wanted in zip(*(torch.autograd.grad(z.sum(), [x, *block.parameters()]) for z in (y, expected))):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
