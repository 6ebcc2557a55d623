"""``backbones.optimize``: what it returns is the model, for every model, and what it cannot keep it refuses."""

import copy
import pickle
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models import alexnet
from torchvision.ops import nms

import backbones
from backbones.inference import PROGRAMS
from backbones.kernels import packing
from backbones.kernels.machine import Machine, set_fast_kernels, use_machine
from backbones.kernels.packing import pack
from backbones.kernels.recording import record

TINY = [name for name in backbones.list_models() if name.startswith("test_")]


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"dynamic_img_size": True} if name == "test_illama" else {}
    model = backbones.create_model(name, **options).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 or not parameter.any():  # scales and biases of their own, and no layer of zeros
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model


def _inputs(model: nn.Module, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    if hasattr(model, "example_inputs"):
        return model.example_inputs(batch, height, width)
    return (torch.randn(batch, 3, height, width),)


def _assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.std()


@pytest.mark.parametrize("name", TINY)
def test_optimized_is_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(name)
    before, limit = copy.deepcopy(model.state_dict()), packing.SMALL_LAYER
    fast = backbones.optimize(model)
    for size in ((2, 64, 64), (1, 96, 64), (3, 64, 64), (2, 64, 64)):
        # layers of such small images are all below the limit: at one size they are convolutions, as of large ones
        monkeypatch.setattr(packing, "SMALL_LAYER", 0 if size == (1, 96, 64) else limit)
        fast(*_inputs(model, *size))  # records
        inputs = _inputs(model, *size)
        with torch.inference_mode():
            _assert_same(fast(*inputs), model(*inputs))
    assert fast._programs and fast._run not in fast._programs.values()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_as_near_as_the_model_in_bfloat16(name: str) -> None:
    """Norms folded into weights round no more than norms that are computed: 2 % of the spread, or what eager loses."""
    model = _model(name)
    inputs = _inputs(model, 2, 64, 96)
    with torch.inference_mode(), use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)):
        fast = backbones.optimize(model, dtype=torch.bfloat16)
        fast(*inputs)  # records
        found, expected = fast(*inputs), model(*inputs)
        rounded = copy.deepcopy(model).bfloat16()(*(x.bfloat16() if x.is_floating_point() else x for x in inputs))
    assert found.dtype == torch.float32
    assert fast._programs and fast._run not in fast._programs.values()
    spread = (expected.max() - expected.min()).item()
    error, eager_error = ((y - expected).abs().max().item() / spread for y in (found, rounded.float()))
    assert error <= max(0.02, 1.5 * eager_error)


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, over the deviation within an image."""
    return ((found - expected).square().mean() / (expected - expected.mean(1, keepdim=True)).square().mean()).sqrt()


@pytest.mark.parametrize("name", TINY)
def test_int8_is_near_the_model(name: str) -> None:
    """At the calibrated size and at others; every layer that is worth it computes in eight bits."""
    model = _model(name)
    before = copy.deepcopy(model.state_dict())
    fast = backbones.optimize(model, dtype=torch.int8, calibration=[_inputs(model, 4, 64, 96)])
    for size in ((2, 64, 96), (3, 96, 64)):
        inputs = _inputs(model, *size)
        fast(*inputs)  # records
        with torch.inference_mode():
            error = _relative_error(fast(*inputs), model(*inputs))
        assert 1e-4 < error < 0.1
    assert fast._programs and fast._run not in fast._programs.values()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    program, _, _ = record(fast._run, _inputs(model, 1, 64, 64), fast._names())
    pack(program, fast._ranges)
    quantised = [node for node in program.graph.nodes if str(node.target).startswith("onednn")]
    left = [node for node in program.graph.nodes if str(node.target).startswith("mkldnn") and "key" in node.meta]
    assert quantised
    for node in left:  # by groups, or to few channels
        groups = next((a for a in node.args if isinstance(a, int)), 1)
        channels = node.meta["layout"].shape[1]
        assert groups > 1 or channels < 96, node.format_node()


def _steps(x: Tensor, low: float, high: float) -> Tensor:
    """What is left of ``x`` in 256 steps over a range."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    return ((x / scale + zero).round().clamp(0, 255) - zero) * scale


def _weight_steps(weight: Tensor) -> Tensor:
    """What is left of weights in 127 steps a channel."""
    scale = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1)) / 63
    return (weight / scale).round() * scale


def _bounds(x: Tensor) -> tuple[float, float]:
    return min(x.min().item(), 0.0), max(x.max().item(), 0.0)


def test_int8_steps() -> None:
    """Inputs take 256 steps over the calibrated range and no more, weights half of theirs; bytes are passed on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 160)).eval()
    first, _, second = model
    seen = torch.randn(64, 32) + 0.5
    fast = backbones.optimize(model, dtype=torch.int8, calibration=seen)
    with torch.inference_mode():
        hidden = _bounds(nn.functional.gelu(first(seen)))
        x = 2 * torch.randn(50, 32)  # beyond the range
        y = nn.functional.linear(_steps(x, *_bounds(seen)), _weight_steps(first.weight), first.bias)
        y = _steps(nn.functional.gelu(y), *hidden)
        expected = nn.functional.linear(y, _weight_steps(second.weight), second.bias)
        fast(x)
        found = fast(x)
    # a step of few hidden entries is another, where they are half way between two
    assert _relative_error(found, expected) < 2e-3
    program, _, _ = record(fast._run, (x,), fast._names())
    pack(program, fast._ranges)
    called = [node.target.__name__ for node in program.graph.nodes if node.op == "call_function"]
    assert [name for name in called if name != "as_strided"] == [
        "_to_bytes",
        "qlinear_pointwise.default",
        "qlinear_pointwise.default",
    ]


def test_int8_convolutions() -> None:
    """Padding is zero whatever the zero point, and activations, sums and gates are those of floats."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 4, 4)
            self.conv1 = nn.Conv2d(32, 128, 3, padding=1)
            self.conv2 = nn.Conv2d(128, 128, 3, 2, padding=1, bias=False)
            self.conv3 = nn.Conv2d(128, 128, 3, padding=1)
            self.pointwise = nn.Conv2d(128, 128, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x.contiguous(memory_format=torch.channels_last))
            x = nn.functional.gelu(self.conv1(x + 3))
            y = nn.functional.silu(self.conv2(x))
            y = y + self.conv3(y)
            y = y * self.conv3(y)
            z = y * self.pointwise(y)
            return z + self.pointwise(z)

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(4, 3, 48, 64)
    fast = backbones.optimize(model, dtype=torch.int8, calibration=[x[:1], x[1:]])
    fast(x)
    with torch.inference_mode():
        assert 1e-4 < _relative_error(fast(x), model(x)) < 0.05
    program, _, _ = record(fast._run, (x,), fast._names())
    pack(program, fast._ranges)
    targets = Counter(str(node.target).split(".")[1] for node in program.graph.nodes if "dnn" in str(node.target))
    assert targets == {"qconv_pointwise": 5, "qlinear_pointwise": 2}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("hidden", "layers"), [(64, 1), (8, 2)])
def test_two_linear_layers_in_a_row(hidden: int, layers: int, bias: bool) -> None:
    """One layer, where that is fewer products."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, hidden, bias), nn.Linear(hidden, 48, bias)).eval()
    fast, x = backbones.optimize(model), torch.randn(2, 70, 32)
    fast(x)
    with torch.inference_mode():
        _assert_same(fast(x), model(x), 1e-5)
    program, _, _ = record(fast._run, (x,), fast._names())
    pack(program)
    assert sum("dnn" in str(node.target) for node in program.graph.nodes) == layers


def test_int8_keeps_layers_in_float() -> None:
    model = _model("test_davit")
    model.int8_float_layers = ("stages.*.blocks", "head.fc")
    fast = backbones.optimize(model, dtype=torch.int8, calibration=torch.randn(2, 3, 64, 64))
    assert fast._ranges
    assert not any("blocks" in name or "head.fc" in name for key in fast._ranges for name in key)
    kept = pickle.loads(pickle.dumps(fast))
    x = torch.randn(1, 3, 64, 64)
    fast(x), kept(x)
    assert torch.equal(kept(x), fast(x))


@pytest.mark.parametrize("name", ["resnet18", *(name for name in TINY if name != "test_ptdit")])
def test_every_layer_is_packed(name: str) -> None:
    """No convolution and no linear layer with weights of the model's is left to PyTorch."""
    fast = backbones.optimize(timm.create_model(name).eval() if name == "resnet18" else _model(name))
    program, _, _ = record(fast._run, (torch.randn(2, 3, 64, 64),))
    pack(program)
    aten = torch.ops.aten
    products = aten.linear.default, aten.conv2d.default, aten.convolution.default, aten.mkldnn_convolution.default
    left = [node for node in program.graph.nodes if node.target in products]
    assert not [node for node in left if node.args[1] in program.constants]
    packed = [node for node in program.graph.nodes if "_convolution_pointwise" in str(node.target)]
    assert len(packed) > len(left)


class _Net(nn.Module):
    """What the families do not have: a norm before a padded convolution, a map used twice, a gate, a buffer written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.gate = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 8, bias=False)
        self.gamma = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.norm1(self.conv1(x.contiguous(memory_format=torch.channels_last)))
        y = self.norm2(self.conv2(x.relu()))
        z = self.conv3(self.norm2(y))
        out, early = torch.zeros(z.shape), torch.zeros(z.shape)
        left = early[:, :4]
        twice = early + 2  # before it is written to
        out[:, :4] = z[:, 4:]
        left.copy_(z[:, 4:])
        t = (y + 2.0 * z).permute(0, 2, 3, 1)
        gated = nn.functional.silu(self.gate(t)) * self.fc(t)
        late = [self.conv3(out), self.conv3(left.repeat(1, 2, 1, 1)), twice]
        return [x, out, *late, t + gated * self.gamma, self.fc(gated).mean((1, 2)) @ self.gate.weight]


def test_ordinary_modules() -> None:
    torch.manual_seed(0)
    model = _Net().eval()
    model.norm1.running_mean.normal_()
    model.norm2.running_var.uniform_(0.5, 2.0)
    fast = backbones.optimize(model)
    for x in (torch.randn(2, 3, 17, 12), torch.randn(2, 3, 17, 12), torch.randn(2, 3, 12, 17).mT):
        with torch.inference_mode():
            for found, expected in zip(fast(x), model(x), strict=True):
                _assert_same(found, expected)


class _Wide(nn.Module):
    """Layers of more than 2,048 channels, of pixels and of images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2080, 2080, bias=False)
        self.act = nn.Linear(2080, 2080)
        self.norm = nn.BatchNorm2d(2080)
        self.conv = nn.Conv2d(2080, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x) + nn.functional.gelu(self.act(x))
        return self.conv(self.norm(x.permute(0, 3, 1, 2))).relu()


@pytest.mark.parametrize("avx512", [True, False])
def test_wide_layers(avx512: bool) -> None:
    """Without AVX-512 they leave oneDNN's convolutions for its linear layers, as does a small one everywhere."""
    torch.manual_seed(0)
    model, x = _Wide().eval(), torch.randn(2, 5, 7, 2080)
    model.norm.running_mean.normal_()
    with torch.inference_mode(), use_machine(Machine(vendor="AuthenticAMD", avx512=avx512)):
        fast = backbones.optimize(model)
        fast(x)
        _assert_same(fast(x), model(x))
        program, _, _ = record(model, (x,))
        pack(program)
    targets = Counter(node.target.__name__.split(".")[0] for node in program.graph.nodes if node.op == "call_function")
    assert (targets["_convolution_pointwise"], targets["_linear_pointwise"]) == ((2, 1) if avx512 else (0, 3)), targets


def test_layouts_of_the_input() -> None:
    model = _model("test_van")
    fast = backbones.optimize(model)
    x = torch.randn(3, 3, 64, 96)
    for y in (x, x.to(memory_format=torch.channels_last), x[1:], x[:, :, :, ::2], x[1:], x[:2]):
        with torch.inference_mode():
            _assert_same(fast(y), model(y))


def test_programs_are_few_and_leave_with_the_weights() -> None:
    model = _model("test_van")
    fast = backbones.optimize(model)
    first = torch.randn(1, 3, 32, 32)
    fast(first)
    (program,) = fast._programs.values()
    for side in range(33, 38):
        fast(torch.randn(1, 3, side, 32))
        fast(first)  # which is in use, and stays
    assert len(fast._programs) == PROGRAMS and program in fast._programs.values()
    other = _model("test_van")
    nn.init.normal_(other.head.fc.weight)
    fast.load_state_dict({f"model.{key}": value for key, value in other.state_dict().items()})
    x = torch.randn(1, 3, 37, 32)
    with torch.inference_mode():
        _assert_same(fast(x), other(x))
        _assert_same(pickle.loads(pickle.dumps(fast))(x), other(x))
        nn.Sequential(fast).load_state_dict({f"0.model.{key}": value for key, value in model.state_dict().items()})
        _assert_same(fast(x), model(x))
        nn.Sequential(fast).load_state_dict({f"0.model.{key}": value for key, value in other.state_dict().items()})
        _assert_same(fast.double()(x.double()), other.double()(x.double()), 1e-9)


def test_weights_that_are_changed_in_place_are_seen() -> None:
    model, x = _model("test_van"), torch.randn(1, 3, 40, 40)
    fast = backbones.optimize(model)
    fast(x)
    for change in (
        lambda net: net.head.fc.weight.mul_(2),
        lambda net: nn.init.normal_(net.stages[0].blocks[0].mlp.fc1.weight),
        lambda net: net.load_state_dict(_model("test_van").state_dict()),
    ):
        with torch.no_grad():
            torch.manual_seed(1)
            change(fast.model)
            torch.manual_seed(1)
            change(model)
        _assert_same(fast(x), model(x))
        assert fast(x).equal(fast(x))
    assert len(fast._programs) == 4


def test_autocast_is_that_of_the_call() -> None:
    model, x = _model("test_van"), torch.randn(2, 3, 64, 64)
    fast = backbones.optimize(model)
    with torch.inference_mode():
        for enabled in (True, False, True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                found, expected = fast(x), model(x)
            assert found.dtype == expected.dtype
            _assert_same(found.float(), expected.float(), 0.1 if enabled else 1e-4)
    assert len(fast._programs) == 2 and fast._run not in fast._programs.values()


def test_norms_of_another_axis() -> None:
    """Of tokens, as many as there are channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)).eval()
    x = torch.randn(2, 16, 16)
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    fast = backbones.optimize(model)
    with torch.inference_mode():
        fast(x)
        _assert_same(fast(x), model(x))


class _Called(nn.Module):
    """A layer, and a function of it and of what it is given."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *args, **kwargs) -> object:
        return self.function(self, *args, **kwargs)


def _answering(answer) -> nn.Module:
    return _Called(lambda self, x: answer(self.layers[0](x)), nn.Linear(8, 8)).eval()


def test_what_a_model_returns() -> None:
    x = torch.randn(2, 8)
    model = _answering(lambda y: {"logits": y, "labels": (y.argmax(1), None), "size": y.shape, "channels": y.shape[1]})
    for dtype in (None, torch.bfloat16):
        with use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)), torch.inference_mode():
            fast = backbones.optimize(model, dtype=dtype)
            fast(x)
            found, expected = fast(x), model(x)
        assert torch.equal(found["labels"][0], found["logits"].argmax(1)) and found["labels"][0].dtype == torch.long
        _assert_same(found["logits"], expected["logits"], 0.05)
        assert (found["size"], found["channels"], found["labels"][1]) == ((2, 8), 8, None)
    with pytest.raises(ValueError, match="the model returns a SimpleNamespace, not tensors in tuples"):
        backbones.optimize(_answering(lambda y: SimpleNamespace(logits=y)))(x)


def test_memory_is_kept_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("backbones.inference.keep_freed_memory", lambda: asked.append(True))
    model = nn.Linear(8, 8).eval()
    backbones.optimize(model)
    assert not asked
    backbones.optimize(model, keep_memory=True)
    assert asked == [True]


def _add_in_place(model: nn.Module, x: Tensor) -> Tensor:
    y = model.layers[0](x)
    y += 1
    return model.layers[1](y) + model.layers[0](x).sigmoid_()


IN_PLACE = {
    "relu": lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(inplace=True), nn.Linear(32, 32)),
    "silu": lambda: nn.Sequential(nn.Linear(32, 32), nn.SiLU(inplace=True), nn.Linear(32, 32)),
    "norm": lambda: nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU(inplace=True), nn.Linear(32, 32)),
    "add": lambda: _Called(_add_in_place, nn.Linear(32, 32), nn.Linear(32, 32)),
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8])
def test_what_is_written_in_place_is_read(kind: str, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model, x = IN_PLACE[kind]().eval(), torch.randn(4, 7, 32)
    calibration = x if dtype == torch.int8 else None
    with use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)), torch.inference_mode():
        fast = backbones.optimize(model, dtype=dtype, calibration=calibration)
        fast(x)
        x = x.flip(0)
        _assert_same(fast(x), model(x), 0.1 if dtype else 1e-4)
    assert fast._run not in fast._programs.values()


def test_a_classifier_of_torchvision() -> None:
    torch.manual_seed(0)
    model, x = alexnet(num_classes=10).eval(), torch.randn(1, 3, 64, 64)
    fast = backbones.optimize(model)
    with torch.inference_mode():
        fast(x)
        _assert_same(fast(x), model(x))


def test_a_tensor_that_is_given_twice() -> None:
    model = _Called(lambda self, x, y: self.layers[0](x) - y, nn.Linear(16, 16)).eval()
    x, y = torch.randn(2, 2, 5, 16).unbind()
    fast = backbones.optimize(model)
    fast(x, x)
    with torch.inference_mode():
        _assert_same(fast(x, y), model(x, y))


def test_other_arguments_are_those_of_the_model() -> None:
    model = _Called(lambda self, x, scale=1, y=0: scale * self.layers[0](x) + y, nn.Linear(16, 16)).eval()
    x = torch.randn(2, 16)
    with use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)), torch.inference_mode():
        for dtype in (None, torch.bfloat16):
            fast = backbones.optimize(model, dtype=dtype)
            for args, options in (((x, 3), {}), ((x,), {"y": x}), ((), {"x": x})):
                found = fast(*args, **options)
                assert found.dtype == torch.float32
                _assert_same(found, model(*args, **options), 0.05)


def test_its_features_train_other_layers() -> None:
    head = nn.Linear(16, 4)
    fast = backbones.optimize(nn.Linear(16, 16).eval())
    for _ in range(2):
        head(fast(torch.randn(3, 16))).sum().backward()
    assert head.weight.grad.any()


def test_tensors_of_other_kinds_stay_what_they_are() -> None:
    """Complex weights, kernels of three dimensions, layers without outputs, an odd name."""
    torch.manual_seed(0)
    filtered = _Called(lambda self, x: torch.view_as_real(x * self.weight).sum(-1))
    filtered.weight = nn.Parameter(torch.randn(16, dtype=torch.cfloat))
    named = nn.Sequential()
    named.base_layer = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    for model, x in (
        (filtered, torch.randn(2, 16)),
        (nn.Conv3d(3, 4, 3), torch.randn(1, 3, 5, 6, 7)),
        (nn.Linear(16, 0), torch.randn(2, 16)),
        (named, torch.randn(2, 16)),
    ):
        fast = backbones.optimize(model.eval(), dtype=torch.float32)
        with torch.inference_mode():
            fast(x)
            torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)


def test_eight_bits_that_are_far_from_the_model_are_said() -> None:
    """Inputs beyond the calibrated range: said from 15 %, and not computed where nothing of the result is left."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128)).eval(), torch.randn(64, 32)
    fast = backbones.optimize(model, dtype=torch.int8, calibration=x)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(x)
    said = r"by \d\d% of their norm, more than 15%.*int8_float_layers"
    with torch.inference_mode(), pytest.warns(UserWarning, match=said):
        found = fast(3 * x[:32])
        assert 0.15 < _relative_error(found, model(3 * x[:32])) < 0.9
    with torch.inference_mode(), pytest.warns(UserWarning, match="runs as it is: .*calibrate with inputs like these"):
        assert torch.equal(fast(100 * x[:16]), model(100 * x[:16]))


def test_parts_of_a_tensor_share_a_program() -> None:
    model, x = _model("test_van"), torch.randn(4, 3, 64, 64)
    fast = backbones.optimize(model)
    with torch.inference_mode():
        for part in x.split(1):
            _assert_same(fast(part), model(part))
    assert len(fast._programs) == 1


@pytest.mark.parametrize("name", TINY)
def test_autocast(name: str) -> None:
    """Its casts are part of the program, and are not made twice."""
    model = _model(name)
    fast, inputs = backbones.optimize(model), _inputs(model, 2, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.filterwarnings("error", "the recorded program is not the model")
        fast(*inputs)
        found, expected = fast(*inputs), model(*inputs)
    assert found.dtype == expected.dtype
    with torch.inference_mode():
        exact = model(*inputs)
    assert (found - exact).norm() < 2 * (expected - exact).norm() + 1e-6


def test_buffers_that_change() -> None:
    model, x = _model("test_van"), torch.randn(1, 3, 64, 64)
    fast = backbones.optimize(model)
    with torch.inference_mode():
        before = fast(x)
    for name, buffer in fast.model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.5)
    with torch.inference_mode():
        assert not torch.equal(fast(x), before)
        _assert_same(fast(x), fast.model(x))


def test_constants_that_a_model_returns_are_the_callers() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return x + 1, torch.arange(x.shape[1]).float(), torch.arange(3.0).expand(len(x), 3)

    fast, x = backbones.optimize(Net().eval()), torch.ones(2, 4)
    for _ in range(3):
        _, numbers, rows = fast(x)
        assert numbers.tolist() == [0, 1, 2, 3] and rows.tolist() == [[0, 1, 2]] * 2
        numbers.mul_(2)
        rows[0].mul_(2)
    assert fast._run not in fast._programs.values()


def test_a_model_that_views_its_own_layout() -> None:
    """Convolutions in channels last would make maps that it cannot view so."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).view(len(x), -1))

    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    fast = backbones.optimize(model)
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            fast(torch.randn(2, 4, 8, 8))
        for _ in range(2):
            _assert_same(fast(x), model(x))
    assert len(fast._programs) == 1


def test_hooks_of_all_modules_see_the_copy() -> None:
    fast, x, seen = backbones.optimize(_model("test_van")), torch.randn(1, 3, 64, 64), []
    fast(x)
    with torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module)):
        fast(x)
    assert {*fast.model.stages} <= {*seen}


def test_another_type_afterwards() -> None:
    model, x = _model("test_van"), torch.randn(1, 3, 64, 64)
    with use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)), torch.inference_mode():
        fast = backbones.optimize(model, dtype=torch.bfloat16).float()
        _assert_same(fast(x), model(x), 0.1)


def test_a_program_that_is_not_the_model_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(16, 16).eval(), torch.randn(2, 16)
    fast = backbones.optimize(model)
    make = packing._Packer.rows_layer
    wrong = lambda self, node, x, w, b, key: make(self, node, x, w, None, key)  # noqa: E731
    monkeypatch.setattr(packing._Packer, "rows_layer", wrong)
    with torch.inference_mode(), pytest.warns(UserWarning, match="the recorded program is not the model"):
        _assert_same(fast(x), model(x))
    with torch.inference_mode():
        _assert_same(fast(x), model(x))


@pytest.mark.parametrize("machine", [Machine(onednn=False), Machine(vendor="GenuineIntel", avx512=True)])
def test_other_machines(machine: Machine) -> None:
    model, x = _model("test_davit"), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        with use_machine(machine):
            fast = backbones.optimize(model)
            fast(x)
            _assert_same(fast(x), expected)


def test_switched_off_it_is_the_model(fast_kernels: None) -> None:
    fast = backbones.optimize(_model("test_van"))
    set_fast_kernels(False)
    fast(torch.randn(1, 3, 64, 64))
    assert not fast._programs


class _Adapted(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)


def _replace_forward(model: nn.Module) -> None:
    model.head.fc.forward = lambda x: x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.train(), "VAN is in training mode: call model.eval"),
        (lambda m: m.stem.train(), "at 'stem.* training mode"),
        (lambda m: m.head.fc.register_forward_hook(lambda *a: None), "Linear at 'head.fc' has hooks"),
        (_replace_forward, "the forward of Linear at 'head.fc' was replaced"),
        (lambda m: parametrizations.weight_norm(m.head.fc), "remove_parametrizations"),
        (lambda m: setattr(m.head, "fc", _Adapted(m.head.fc)), "merge it into the model"),
        (lambda m: m.to("meta"), r'on meta: call model.to\("cpu"\)'),
    ],
)
def test_refused(change, message: str) -> None:
    model = _model("test_van")
    change(model)
    if "training" not in message:
        model.eval()
    with pytest.raises(ValueError, match=message):
        backbones.optimize(model)


def test_refused_for_what_it_is() -> None:
    fast = backbones.optimize(_model("test_van"))
    with pytest.raises(ValueError, match="optimized already"):
        backbones.optimize(fast)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fast.train()
    with pytest.raises(ValueError, match=r"torch.float32, torch.bfloat16 or torch.int8, not torch.float16"):
        backbones.optimize(_model("test_van"), dtype=torch.float16)
    with pytest.raises(ValueError, match=r"pass calibration=images"):
        backbones.optimize(_model("test_van"), dtype=torch.int8)
    with pytest.raises(ValueError, match=r"weights in torch.float16.*model.float\(\)"):
        backbones.optimize(_model("test_van").half(), dtype=torch.int8, calibration=torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"leave it out for float"):
        backbones.optimize(_model("test_van"), calibration=torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"a model is optimized, not a str: backbones.create_model"):
        backbones.optimize("test_van")
    for images, message in (
        (torch.full((1, 3, 32, 32), torch.nan), "empty or not finite"),
        (torch.empty(0, 3, 32, 32), "empty or not finite"),
        (torch.full((1, 3, 32, 32), 0.5), "are 0.5 everywhere"),
        ([[torch.randn(1, 3, 32, 32), 3]], r"not list: of a DataLoader pass \(images for images, \*_ in loader\)"),
    ):
        with pytest.raises(ValueError, match=message):
            backbones.optimize(_model("test_van"), dtype=torch.int8, calibration=images)
    with use_machine(Machine(onednn=False)), pytest.raises(ValueError, match="no kernels for int8"):
        backbones.optimize(_model("test_van"), dtype=torch.int8, calibration=torch.randn(1, 3, 32, 32))
    with (
        use_machine(Machine(vendor="GenuineIntel", avx512=True)),
        pytest.raises(ValueError, match="no kernels for bfloat16"),
    ):
        backbones.optimize(_model("test_van"), dtype=torch.bfloat16)


class _Restless(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "values":
            return x if x.sum() > 0 else -x
        if self.kind == "shape":
            return x[x > 0]
        if self.kind == "places":
            return x[x.nonzero()[:, 0]]
        if self.kind == "where":
            return torch.where(x > 0)[0]
        if self.kind == "repeats":
            return torch.arange(3).repeat_interleave(x.long().flatten()[:3].abs())
        if self.kind == "nms":
            return nms(x.repeat(1, 2)[:, :4], x[:, 0], 0.5)
        if self.kind == "list":
            return x * x.tolist()[0][0]
        if self.kind == "numpy":
            return x + torch.from_numpy(2 * x.numpy())
        if self.kind == "data":
            y = 2 * x
            y.data = 2 * y.data
            return y
        if self.kind == "buffer":
            self.count = self.count + 1
            return x + self.count
        if self.kind == "random":
            return x + torch.rand_like(x)
        if self.kind == "constant":
            chosen = self.count.new_ones(3) > 0
            return x[:, chosen] + self.count.item() + self.count.tolist()[0]
        self.count.add_(1)
        return x + self.count


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("values", "values"),
        ("shape", "values"),
        ("places", "values"),
        ("where", "values"),
        ("repeats", "values"),
        ("nms", "values"),
        ("list", "tolist looks at the values"),
        ("numpy", "numpy looks at the values"),
        ("data", "__set__ looks at the values"),
        ("buffer", "replaces its own tensors"),
        ("random", "random"),
        ("writes", "writes"),
    ],
)
def test_what_cannot_be_recorded(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbones.optimize(_Restless(kind).eval())(torch.randn(2, 3))


def test_values_of_constants_are_no_values_of_the_input() -> None:
    fast = backbones.optimize(_Restless("constant").eval())
    for _ in range(2):
        x = torch.randn(2, 3)
        assert torch.equal(fast(x), x)
