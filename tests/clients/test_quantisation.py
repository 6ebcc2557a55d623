"""torchao and PT2E: every layer is quantised, the outputs stay, and so does the accuracy of a trained model."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.quantization.pt2e import MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from tests.every_module import EVERY, inputs, lively
from tests.test_models import TINY, images

pytestmark = [
    pytest.mark.clients,
    pytest.mark.usefixtures("fast_kernels"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
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


def pt2e(model: nn.Module, x: Tensor, observer: Callable | None = None) -> torch.fx.GraphModule:
    """Statically quantised as calibrated on ``x``.

    Args:
        observer: Of activations. By default histograms, which take a while, and the program serves any batch.
    """
    cfg = get_default_x86_inductor_quantization_config()
    if observer is not None:
        cfg = replace(cfg, input_activation=replace(cfg.input_activation, observer_or_fake_quant_ctr=observer))
    with torch.no_grad():
        batch = None if observer else ({0: torch.export.Dim.AUTO},)
        program = torch.export.export(model, (x,), dynamic_shapes=batch, strict=True)
        prepared = prepare_pt2e(program.module(), X86InductorQuantizer().set_global(cfg))
        prepared(x)
        return convert_pt2e(prepared)


def layers(program: torch.fx.GraphModule) -> tuple[int, int]:
    """Convolutions and linear layers of a program, and those whose weight is quantised."""
    calls = [n for n in program.graph.nodes if str(n.target) in ("aten.conv2d.default", "aten.linear.default")]
    return len(calls), sum("dequantize" in str(n.args[1].target) for n in calls)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", *TINY])
def test_pt2e(name: str) -> None:
    """As every layer of timm's ConvNeXt, so every one of ours."""
    if name in TINY:
        model, x = lively(name).eval(), images(32, 64)
    else:
        model, x = timm.create_model(name, num_classes=7).eval(), images(32, 64)
    program = pt2e(model, x, MinMaxObserver)
    count, quantised = layers(program)
    assert quantised == count >= sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())
    with torch.no_grad():
        expected = model(x)
        assert (program(x) - expected).std() < expected.std()  # weights are random, and so are a few tokens of a sort


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


def test_a_trained_model_stays_as_good(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, labels = digits
    expected = top1(model, x, labels)
    assert expected > 90
    quantised: dict[str, nn.Module] = {}
    for config in CONFIGS:
        quantised[config.__name__] = copy.deepcopy(model)
        quantize_(quantised[config.__name__], config())
    quantised["dynamic"] = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    quantised["PT2E"] = pt2e(model, x[::20].contiguous())
    for key, twin in quantised.items():
        assert abs(top1(twin, x, labels) - expected) <= 1, key
