"""Layers run together with their neighbours against the same layers one after the other."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import DepthwiseConv, Linear, chain, gelu_of, linear_of, norm_of, set_fast_kernels, together
from backbones.layers import mlp as mlp_file
from backbones.layers.mlp import ConvMlp, Mlp, SwiGLU, silu_gate


@pytest.mark.parametrize("rows", [5, 40, 100])
@pytest.mark.parametrize("gated", [True, False])
def test_two_in_a_row_are_one_where_rows_pay(rows: int, gated: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    first, second, x = Linear(24, 16), Linear(16, 20), torch.randn(3, rows, 24)
    gate = torch.randn(3, 16) if gated else None
    expected = second(first(x) * gate[:, None] if gated else first(x))
    with torch.no_grad(), patch.object(Linear, "forward", autospec=True, side_effect=Linear.forward) as calls:
        torch.testing.assert_close(chain(x, first, second, gate), expected, atol=1e-5, rtol=1e-4)
    assert calls.call_count == (2 if rows < 40 else 0)
    chain(x, first, second, gate).sum().backward()  # with gradients they stay apart
    assert all(p.grad is not None for layer in (first, second) for p in layer.parameters())


@pytest.mark.parametrize(
    "layer", [Linear(6, 9), DepthwiseConv(6), DepthwiseConv(6, 7, dilation=3, shortcut=True)], ids=str
)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("fast", [True, False])
def test_gelu_of(layer: nn.Module, approximate: str, fast: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    set_fast_kernels(fast)
    x = torch.randn(2, 9, 8, 6)
    expected = F.gelu(layer(x), approximate=approximate)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(gelu_of(layer, x, approximate), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("act", ["none", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_norm_of(act: str, bias: bool, training: bool, fast: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    set_fast_kernels(fast)
    layer, norm, x = Linear(6, 9, bias=bias), nn.BatchNorm2d(9).train(training), torch.randn(2, 9, 8, 6)
    for t in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(t)
    norm.running_var.uniform_(0.5, 2)
    for grad in (True, False):
        expected = copy.deepcopy(norm)(layer(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        expected = F.relu(expected) if act == "relu" else expected
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(norm_of(layer, norm, x, act), expected, atol=1e-5, rtol=1e-5)
    assert norm.num_batches_tracked == (2 if training else 0)
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        norm_of(layer, norm, x, act)
    assert len(seen) == 1


ACTS = {"gelu": (F.gelu, 1), "tanh": (partial(F.gelu, approximate="tanh"), 1), "gated": (silu_gate, 2)}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 9, 8, 24), (2, 70, 24), (24,)], ids=str)
def test_linear_of(act: str, bias: bool, shape: tuple[int, ...], fast_kernels: None, monkeypatch) -> None:
    """Outputs, gradients, and gradients of gradients."""
    torch.manual_seed(0)
    monkeypatch.setattr(together, "_CHUNK_BYTES", 64 * 24 * 4)  # 64 rows: some of the shapes need several turns
    fn, count = ACTS[act]
    layer, inputs = Linear(24, 10, bias=bias), [torch.randn(shape, requires_grad=True) for _ in range(count)]
    before = [x.detach().clone() for x in inputs]
    wanted = [*inputs, *layer.parameters()]
    results = []
    for y in (linear_of(fn, layer, *inputs), layer(fn(*inputs))):
        dy = torch.linspace(-1, 1, y.numel()).view_as(y)
        once = torch.autograd.grad(y, wanted, dy, retain_graph=True)
        graph = torch.autograd.grad(y, wanted, dy, create_graph=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in graph), wanted[:-1] if bias else wanted)
        results.append((y, *once, *graph, *twice))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for x, y in zip(inputs, before, strict=True):
        assert torch.equal(x, y)


def test_what_is_frozen_gets_no_gradient(fast_kernels: None) -> None:
    layer, x = Linear(24, 10), torch.randn(2, 70, 24)
    layer.weight.requires_grad_(False)
    linear_of(F.gelu, layer, x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None
    layer.requires_grad_(False)
    x.requires_grad_()
    linear_of(F.gelu, layer, x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None


def under_autocast(
    run: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype, params: Iterable[nn.Parameter]
) -> tuple[Tensor, ...]:
    """The result of ``run`` and the gradients of its sum."""
    with torch.autocast("cpu", dtype):
        y = run(x)
    assert y.dtype == dtype
    return y.float(), *torch.autograd.grad(y.float().sum(), (x, *params))


def assert_alike(results: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """Equal within the precision of bfloat16."""
    for found, expected in zip(results, wanted, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.02 * expected.abs().max().item(), rtol=0.05)


MLPS = {
    "Mlp": partial(Mlp, 6, 10),
    "tanh": partial(Mlp, 6, 10, approximate="tanh"),
    "ConvMlp": partial(ConvMlp, 6, 10),
    "shortcut": partial(ConvMlp, 6, 10, shortcut=True),
    "act_first": partial(ConvMlp, 6, 10, shortcut=True, act_first=True),
}


@pytest.mark.parametrize("kind", MLPS)
@pytest.mark.parametrize("frozen", [None, "fc1", "fc2"])
def test_hidden_maps_that_are_made_twice(kind: str, frozen: str | None, fast_kernels: None, monkeypatch) -> None:
    """Outputs, gradients, and gradients of gradients are those of maps that are kept."""
    torch.manual_seed(0)
    mlp, x = MLPS[kind](), torch.randn(5, 9, 8, 6, requires_grad=True)
    if frozen:
        mlp.get_submodule(frozen).requires_grad_(False)
    wanted = [x, *(p for p in mlp.parameters() if p.requires_grad)]
    monkeypatch.setattr(together, "_CHUNK_BYTES", 2 * 9 * 8 * 10 * 4)  # two images at a time
    results, kept = [], []
    for remade in (True, False):
        monkeypatch.setattr(mlp_file, "is_remade", partial(lambda x, width, answer: answer, answer=remade))
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            y = mlp(x)
        assert (5 * 9 * 8 * 10 in kept) != remade  # the hidden map
        dy = torch.linspace(-1, 1, y.numel()).view_as(y)
        once = torch.autograd.grad(y, wanted, dy, retain_graph=True)
        graph = torch.autograd.grad(y, wanted, dy, create_graph=True)
        results.append((y, *once, *torch.autograd.grad(sum(g.square().sum() for g in graph), x)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["Mlp", "ConvMlp"])
def test_hidden_maps_that_are_made_twice_follow_autocast(
    kind: str, dtype: torch.dtype, fast_kernels: None, monkeypatch
) -> None:
    torch.manual_seed(0)
    mlp, x = MLPS[kind](), torch.randn(5, 9, 8, 6, requires_grad=True)
    results = []
    for answer in (True, False):
        monkeypatch.setattr(mlp_file, "is_remade", partial(lambda x, width, answer: answer, answer=answer))
        results.append(under_autocast(mlp, x, dtype, mlp.parameters()))
    assert_alike(*results)


def test_wide_maps_of_few_channels_are_made_twice(fast_kernels: None) -> None:
    x = torch.empty(8, 56, 56, 64)
    assert together.is_remade(x, 512) and not together.is_remade(x[:4], 512)
    assert not together.is_remade(torch.empty(8, 28, 28, 256), 2048)
    with torch.no_grad():
        assert not together.is_remade(x, 512)
    set_fast_kernels(False)
    assert not together.is_remade(x, 512)


def test_linear_of_keeps_its_inputs_alone(fast_kernels: None) -> None:
    """What the backward pass needs beside parameters: the hidden map before the activation, not the one after it."""
    layer, x = Linear(24, 10), torch.randn(2, 70, 24, requires_grad=True)
    sizes: dict[str, list[int]] = {"together": [], "apart": []}
    for name, run in (("together", partial(linear_of, F.gelu, layer)), ("apart", lambda x: layer(F.gelu(x)))):

        def pack(t: Tensor, kept: list[int] = sizes[name]) -> Tensor:
            if t.numel() == x.numel():
                kept.append(t.data_ptr())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            run(x)
    assert set(sizes["together"]) == {x.data_ptr()} and len(set(sizes["apart"])) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_of_follows_autocast(dtype: torch.dtype, fast_kernels: None) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 10), torch.randn(2, 70, 24, requires_grad=True)
    runs = partial(linear_of, F.gelu, layer), lambda x: layer(F.gelu(x))
    assert_alike(*(under_autocast(run, x, dtype, layer.parameters()) for run in runs))


def test_sums_over_pieces_have_float32(fast_kernels: None, monkeypatch) -> None:
    """In bfloat16, 256 and one more is 256."""
    monkeypatch.setattr(together, "_CHUNK_BYTES", 1)  # a row at a time
    layer, x = Linear(4, 2), torch.ones(1000, 4)
    with torch.autocast("cpu", torch.bfloat16):
        linear_of(torch.relu, layer, x).float().sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 4), 1000.0))


class Adapter(nn.Module):
    """What libraries of adapters (LoRA) put in the place of a layer: its result and something more."""

    def __init__(self, layer: nn.Module, dim: int, dim_out: int) -> None:
        super().__init__()
        self.layer, self.more = layer, nn.Linear(dim, dim_out)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.more(x)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", ["Mlp", "ConvMlp", "SwiGLU"])
def test_adapters_and_hooks_are_not_passed_by(kind: str, grad: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    mlp, x = {"Mlp": Mlp, "ConvMlp": ConvMlp, "SwiGLU": SwiGLU}[kind](6, 10), torch.randn(2, 9, 8, 6)
    first = "fc1_g" if kind == "SwiGLU" else "fc1"
    setattr(mlp, first, Adapter(getattr(mlp, first), 6, 10))
    mlp.fc2 = Adapter(mlp.fc2, 10, 6)
    a, b = getattr(mlp, first), mlp.fc2
    hidden = F.linear(x, a.weight + a.more.weight, (0 if a.bias is None else a.bias) + a.more.bias)
    if kind == "SwiGLU":
        hidden = F.silu(hidden) * mlp.fc1_x(x)
    else:
        hidden = F.gelu(mlp.dwconv(hidden) if kind == "ConvMlp" else hidden)
    expected = F.linear(hidden, b.weight + b.more.weight, (0 if b.bias is None else b.bias) + b.more.bias)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mlp(x), expected, atol=1e-5, rtol=1e-5)
        seen = []
        mlp.fc2 = Linear(10, 6)
        mlp.fc2.register_forward_hook(lambda module, args, output: seen.append(args[0]))
        mlp(x)
    torch.testing.assert_close(seen[0], hidden, atol=1e-5, rtol=1e-5)


def test_hooks_on_gradients_are_called(fast_kernels: None) -> None:
    mlp, seen = Mlp(6, 10), []
    mlp.fc2.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output))
    mlp(torch.randn(2, 9, 8, 6)).sum().backward()
    assert len(seen) == 1
