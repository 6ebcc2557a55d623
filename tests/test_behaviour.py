"""Whatever is done to a module of a model means what it means in plain PyTorch: for every module of every model.

The plain form, which the fast paths are compared with, is that of ``set_fast_kernels(False)``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.hooks import RemovableHandle

from tests.every_module import EVERY, close, inputs, lively, outputs_and_gradients, plain, roles

# Modules that run more than once in a forward: model -> {role: why}.
SHARED: dict[str, dict[str, str]] = {
    "test_halonet": {"stages.*.blocks.*.act": "after the attention and after the sum"},
    "test_ptdit": {
        "stages.*.blocks.*.norm": "a norm without parameters serves the two attentions and the MLP",
        "stages.*.blocks.*.proxy.norm": "a norm without parameters serves the proxies and the map",
    },
    "test_sgformer": {
        "stem.act": "after each convolution",
        "stages.*.downsample.act": "after each convolution",
        "stages.*.blocks.*.attn.merge.*": "keys and values are merged by the same weights",
    },
    "test_transnext": {"stages.*.blocks.*.attn.kv": "serves the map and the pooled map"},
    "test_moh": {"stages.*.blocks.*.attn.kv": "serves the map and the pooled map"},
}
LAYERS = (nn.Linear, nn.Conv2d)
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU)

pytestmark = pytest.mark.usefixtures("fast_kernels")


def tensors(value: Any) -> list[Tensor]:
    """Those in (tuples of) the arguments or results of a module."""
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in tensors(v)] if isinstance(value, (tuple, list)) else []


def shapes(*values: Any) -> list[list[int]]:
    return [list(t.shape) for t in tensors(values)]


# Hooks ---------------------------------------------------------------------------------------------------------------


def forward_hook(module: nn.Module, record: Callable[..., None]) -> RemovableHandle:
    return module.register_forward_hook(lambda module, args, output: record(args, output))


def forward_pre_hook(module: nn.Module, record: Callable[..., None]) -> RemovableHandle:
    return module.register_forward_pre_hook(lambda module, args: record(args))


def backward_hook(module: nn.Module, record: Callable[..., None]) -> RemovableHandle:
    return module.register_full_backward_hook(lambda module, grad_input, grad_output: record(grad_output))


def backward_pre_hook(module: nn.Module, record: Callable[..., None]) -> RemovableHandle:
    return module.register_full_backward_pre_hook(lambda module, grad_output: record(grad_output))


def copies(*values: Any) -> list[Tensor]:
    return [t.detach().clone() for t in tensors(values)]


def calls(
    hook: Callable, modules: list[tuple[str, nn.Module]], run: Callable[[], Any], keep: Callable = shapes
) -> dict[str, list[Any]]:
    """What a hook on each of ``modules`` is given while ``run`` runs: name -> one entry a call."""
    seen: dict[str, list[Any]] = {name: [] for name, _ in modules}

    def record(name: str, *values: Any) -> None:
        seen[name].append(keep(*values))

    handles = [hook(module, partial(record, name)) for name, module in modules]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize("name", EVERY)
def test_every_module_is_called_once(name: str) -> None:
    """In the plain form; what has no parameters and is an ``nn.Identity`` or a list is asked nothing."""
    model = lively(name).eval()
    containers = (nn.ModuleList, nn.ModuleDict)
    modules = [(key, m) for key, m in model.named_modules() if not isinstance(m, (nn.Identity, *containers))]
    with plain(), torch.no_grad():
        seen = calls(forward_hook, modules, lambda: model(*inputs(name)))
    shared = {key for role in SHARED.get(name, {}) for key, _ in roles(model)[role]}
    assert {key: len(values) for key, values in seen.items() if key not in shared and len(values) != 1} == {}
    assert all(len(seen[key]) > 1 for key in shared)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache so small that fast paths take the images of a batch a few at a time."""
    monkeypatch.setattr("backbones.kernels.memory.CHUNK_BYTES", 2**18)


@pytest.mark.parametrize("name", EVERY)
def test_hooks_in_inference_see_the_whole_batch(name: str, small_chunks: None) -> None:
    """On the modules of one role at a time, with images of which a fast path takes a few at a time."""
    model, args = lively(name).eval(), inputs(name, 5)
    run = torch.no_grad()(partial(model, *args))
    with plain():
        expected = calls(forward_hook, list(model.named_modules()), run)
    for role, modules in roles(model).items():
        for key, found in calls(forward_hook, modules, run).items():
            assert found == expected[key], f"{key}, with hooks on {role}"


KINDS = [forward_hook, forward_pre_hook, backward_hook, backward_pre_hook]


def once(model: nn.Module, args: tuple[Any, ...], mode: Callable = torch.inference_mode) -> None:
    """A pass in the model's state: a step's two passes, or inference."""
    if model.training:
        model.zero_grad()
        model(*args).square().mean().backward()
    else:
        with mode():
            model(*args)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", EVERY)
def test_hooks_see_the_values_of_the_plain_form(name: str, training: bool) -> None:
    """On the modules of one role at a time: of one kind, since what asks for hooks asks for all; kinds take turns."""
    model = lively(name).train(training)
    run = partial(once, model, inputs(name))
    kinds = KINDS if training else KINDS[:2]
    with plain():
        expected = [calls(kind, list(model.named_modules()), run, copies) for kind in kinds]
    for (role, modules), (kind, values) in zip(roles(model).items(), cycle(zip(kinds, expected))):
        for key, found in calls(kind, modules, run, copies).items():
            message = f"{kind.__name__} of {key}, with hooks on {role}"
            assert list(map(shapes, found)) == list(map(shapes, values[key])), message
            for a, b in zip(tensors(found), tensors(values[key]), strict=True):
                if a.is_floating_point():  # an order of tokens is not: rounding swaps some, and moves their values
                    close(a, b, message, part=0.1)


GLOBAL_HOOKS = {
    "forward": torch_module.register_module_forward_hook,
    "forward_pre": torch_module.register_module_forward_pre_hook,
    "backward": torch_module.register_module_full_backward_hook,
    "backward_pre": torch_module.register_module_full_backward_pre_hook,
}


def global_calls(kind: str, model: nn.Module, run: Callable[[], Any]) -> dict[str, list[Any]]:
    names = {module: key for key, module in model.named_modules()}
    seen: dict[str, list[Any]] = {}

    def record(module: nn.Module, *values: Any) -> None:
        seen.setdefault(names[module], []).append(shapes(values))

    handle = GLOBAL_HOOKS[kind](record)
    try:
        run()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", GLOBAL_HOOKS)
@pytest.mark.parametrize("name", EVERY)
def test_global_hooks(name: str, kind: str, small_chunks: None) -> None:
    training = kind.startswith("backward")
    model = lively(name).train(training)
    run = partial(once, model, inputs(name, 2 if training else 5), torch.no_grad)
    with plain():
        expected = global_calls(kind, model, run)
    assert global_calls(kind, model, run) == expected


def operators(run: Callable[[], Any]) -> list[str]:
    """Names of the operators that run, nested ones included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in sorted(profile.events(), key=lambda e: e.time_range.start)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", EVERY)
def test_removed_hooks_leave_the_fast_path(name: str, training: bool) -> None:
    model = lively(name).train(training)
    run = partial(once, model, inputs(name))
    run()
    before = operators(run)
    for kind in KINDS if training else KINDS[:2]:
        calls(kind, list(model.named_modules()), run)
    for kind in GLOBAL_HOOKS:
        global_calls(kind, model, run)
    assert Counter(operators(run)) == Counter(before)


# Layers that are changed ---------------------------------------------------------------------------------------------


@contextmanager
def replaced_forward(modules: list[tuple[str, nn.Module]], counts: Counter) -> Iterator[None]:
    """``forward`` of modules replaced on the instance, as LyCORIS and accelerate do; no norm or softmax undoes it."""

    def forward(key: str, original: Callable, self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        counts[key] += 1
        y = original(*args, **kwargs)
        return 1.3 * y + 0.2 * y.roll(1, -1)

    for key, module in modules:
        original = module.forward
        module.forward = MethodType(partial(forward, key, original), module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for _, module in modules:
            del module.forward


def results(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Tensor]:
    """Outputs in training and in inference, and gradients of parameters in training and of the input in inference."""
    found = outputs_and_gradients(model.train(), args)
    with torch.no_grad():
        found["in inference"] = model.eval()(*args)
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor], message: str) -> None:
    assert found.keys() == expected.keys(), message
    scale = max(t.square().mean().sqrt().item() for t in expected.values())
    for key in expected:
        close(found[key], expected[key], f"{message}: {key}", scale)


def differs(found: Tensor, other: Tensor) -> bool:
    return bool((found - other).abs().max() > 2e-5 * other.abs().max())


def fixed(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model whose norms do not change from step to step."""
    model = lively(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return model, inputs(name)


@pytest.mark.parametrize("name", EVERY)
def test_a_replaced_forward_is_called(name: str) -> None:
    model, args = fixed(name)
    whole = results(model, args)
    own = (*LAYERS, *ACTIVATIONS, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.RMSNorm)
    for role, modules in roles(model, own).items():
        counts: dict[bool, Counter] = {True: Counter(), False: Counter()}
        with replaced_forward(modules, counts[False]), plain():
            expected = results(model, args)
        with replaced_forward(modules, counts[True]):
            found = results(model, args)
        assert counts[True] == counts[False], role
        assert all(counts[True][key] >= 2 for key, _ in modules), role
        same(found, expected, role)
        assert differs(found["in inference"], whole["in inference"]), role


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)


def old_weight_norm(layer: nn.Module) -> None:
    nn.utils.weight_norm(layer)
    with torch.no_grad():
        layer.weight_g.mul_(1.3)


def new_weight_norm(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(1.3)


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "weight_norm": new_weight_norm,
    "old weight_norm": old_weight_norm,
    "prune": pruned,
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", EVERY)
def test_a_changed_layer_takes_effect(name: str, change: str) -> None:
    """Two steps of training, then inference, as in the plain form. On the layers of one role at a time, or on all."""
    untouched, args = fixed(name)
    with torch.no_grad():
        whole = untouched.eval()(*args)

    def steps(names: list[str]) -> dict[str, Tensor]:
        model, _ = fixed(name)
        torch.manual_seed(0)  # for the vectors of spectral norms
        for key in names:
            CHANGES[change](model.get_submodule(key))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            found = outputs_and_gradients(model.train(), args)
            for key, p in model.named_parameters():
                p.grad = found.get(key)
            optimizer.step()
        with torch.no_grad():
            found["in inference"] = model.eval()(*args)
        assert not [key for key, _ in model.named_parameters() if key not in found], "without a gradient"
        return found

    groups = [[key for key, _ in modules] for modules in roles(untouched, LAYERS).values()]
    if change != "parametrize":  # the others work as this one, or by a hook
        groups = [[key for group in groups for key in group]]
    for names in groups:
        with plain():
            expected = steps(names)
        found = steps(names)
        same(found, expected, names[0])
        assert differs(found["in inference"], whole), names[0]


class Leaky(nn.Module):
    """Not an activation of PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("name", EVERY)
def test_a_replaced_activation_takes_effect(name: str) -> None:
    """One of a subclass gives the same, another one what it gives in the plain form."""
    model, args = fixed(name)
    whole = results(model, args)
    found = roles(model, ACTIVATIONS)
    for role, modules in found.items():
        for new in ("subclass", nn.Tanh, Leaky, nn.Identity):
            for key, old in modules:
                if new == "subclass":
                    kind = type(old)
                    act = type(f"My{kind.__name__}", (kind,), {})()
                    act.__dict__.update(old.__dict__)
                else:
                    act = new()  # type: ignore[operator]
                model.set_submodule(key, act)
            with plain():
                expected = results(model, args)
            changed = results(model, args)
            same(changed, expected, f"{role}: {new}")
            if new == "subclass":
                same(changed, whole, f"{role}: {new}")
            else:
                assert differs(changed["in inference"], whole["in inference"]), f"{role}: {new}"
            for key, old in modules:
                model.set_submodule(key, old)


def test_every_activation_is_a_module() -> None:
    """So that it can be replaced: each family has some."""
    assert [name for name in EVERY if not roles(lively(name), ACTIVATIONS)] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", EVERY)
def test_dynamic_quantisation_converts_every_linear_layer(name: str) -> None:
    model, args = lively(name).eval(), inputs(name)
    count = sum(isinstance(m, nn.Linear) for m in model.modules())
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    converted = sum(isinstance(m, torch.ao.nn.quantized.dynamic.Linear) for m in quantised.modules())
    assert converted == count > 0
    assert not any(isinstance(m, nn.Linear) for m in quantised.modules())
    with torch.no_grad():
        expected, found = model(*args), quantised(*args)
    assert (found - expected).std() < 0.1 * expected.std()
