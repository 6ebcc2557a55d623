"""torchao and PT2E: every layer is quantised, the outputs stay, and so does the accuracy of a trained model."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.quantization.pt2e import MinMaxObserver, qat_utils
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from tests.every_module import EVERY, close, inputs, lively
from tests.test_models import TINY, images

pytestmark = [
    pytest.mark.clients,
    pytest.mark.usefixtures("fast_kernels"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
ONE_PROCESS = pytest.mark.xdist_group("pt2e")  # which shares torchao's patterns
CALLS = ("aten.conv2d.default", "aten.linear.default")
SMALLEST_STEP = 2**-12  # of a weight, as torchao's observers choose it
REORDERED = {"test_sgformer": "tokens are sorted by significance, and rounding exchanges neighbours"}
CONFIGS = [Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
@pytest.mark.parametrize("name", EVERY)
def test_torchao(name: str, config: type) -> None:
    model, args = lively(name).eval(), inputs(name)
    with torch.no_grad():
        expected = model(*args)
        quantize_(model, config())
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        assert layers and all(type(m.weight) is not nn.Parameter for m in layers)
        found = model(*args)
    assert (found - expected).std() < 0.05 * expected.std()


@pytest.fixture(autouse=True, scope="module")
def _patterns_compiled_once() -> Iterator[None]:
    """torchao looks for training in eight bits in every model that keeps a batch norm.

    It compiles a hundred patterns for that, the same ones and for most of a minute each time.
    """
    compiled: dict[Callable, torch.fx.GraphModule] = {}
    compile_pattern = qat_utils._get_aten_graph_module_for_pattern

    def compile_once(pattern: Callable, *args: Any, **kwargs: Any) -> torch.fx.GraphModule:
        if pattern not in compiled:
            compiled[pattern] = compile_pattern(pattern, *args, **kwargs)
        return copy.deepcopy(compiled[pattern])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat_utils, "_get_aten_graph_module_for_pattern", compile_once)
        for name in ("_get_quantized_qat_conv_bn_pattern", "_get_folded_quantized_qat_conv_bn_pattern"):
            patch.setattr(qat_utils, name, cache(getattr(qat_utils, name)))
        yield


@torch.no_grad()
def calibrated(model: nn.Module, x: Tensor, observer: Callable | None = None) -> torch.fx.GraphModule:
    """As a program with observers, which have seen ``x``; ``convert_pt2e`` quantises it.

    Args:
        observer: Of activations. By default histograms, which take a while, and the program serves any batch.
    """
    cfg = get_default_x86_inductor_quantization_config()
    if observer is not None:
        cfg = replace(cfg, input_activation=replace(cfg.input_activation, observer_or_fake_quant_ctr=observer))
    batch = None if observer else ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (x,), dynamic_shapes=batch, strict=True)
    prepared = prepare_pt2e(program.module(), X86InductorQuantizer().set_global(cfg))
    prepared(x)
    return prepared


class Layers(torch.fx.Interpreter):
    """Runs a program and keeps inputs and weights of its convolutions and linear layers, in order."""

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__(program)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def call_function(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if str(target) in CALLS:
            self.calls.append(args[:2])
        return super().call_function(target, args, kwargs)


@pytest.mark.slow
@ONE_PROCESS
@pytest.mark.parametrize("name", ["convnext_atto", *TINY])
def test_pt2e(name: str) -> None:
    """As every layer of timm's ConvNeXt, so every one of ours: weight and input have eight bits, and errors stay small.

    A weight is within half a step of its channel. An input differs by its own rounding and by what the layers before
    made of theirs, by up to 0.03 of its spread in ConvNeXt and 0.07 in LITv2; logits by 0.03 in both ConvNeXt and ours.
    """
    model = lively(name) if name in TINY else timm.create_model(name, num_classes=7)
    model.eval()
    x = images(32, 64)
    with torch.no_grad():
        prepared = calibrated(model, x, MinMaxObserver)
        plain = Layers(prepared)
        expected = plain.run(x)
        close(expected, model(x))
        program = convert_pt2e(prepared)
        quantised = Layers(program)
        found = quantised.run(x)
    layers = [n for n in program.graph.nodes if str(n.target) in CALLS]
    assert all("dequantize" in str(arg.target) for n in layers for arg in n.args[:2])
    assert len(layers) >= sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())
    for (a, weight), (b, rounded) in zip(plain.calls, quantised.calls, strict=True):
        step = (weight.flatten(1).abs().amax(1) / 127.5).clamp(min=SMALLEST_STEP)
        assert ((rounded - weight).flatten(1).abs().amax(1) < 0.501 * step).all()
        if name not in REORDERED:
            assert (b - a).std() < 0.1 * a.std()
    assert (found - expected).std() < 0.05 * expected.std()


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """The trained model, scans as it takes them, and their labels."""
    model = timm.create_model("test_van.digits", pretrained=True).eval()
    scans, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(scans).float().view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    cfg = timm.data.resolve_model_data_config(model)
    x = nn.functional.interpolate(x, cfg["input_size"][1:], mode="bilinear")
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return model, ((x - mean) / std)[-400:], torch.from_numpy(labels)[-400:]


def top1(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return 100 * sum((model(a).argmax(1) == b).sum().item() for a, b in zip(x.split(50), labels.split(50))) / len(x)


@ONE_PROCESS
def test_a_trained_model_stays_as_good(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, labels = digits
    expected = top1(model, x, labels)
    assert expected > 90
    quantised: dict[str, nn.Module] = {}
    for config in CONFIGS:
        quantised[config.__name__] = copy.deepcopy(model)
        quantize_(quantised[config.__name__], config())
    quantised["dynamic"] = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with torch.no_grad():
        quantised["PT2E"] = convert_pt2e(calibrated(model, x[::20].contiguous()))
    for key, twin in quantised.items():
        assert abs(top1(twin, x, labels) - expected) <= 1, key
