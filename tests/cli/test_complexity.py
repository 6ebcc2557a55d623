"""Counts against layers whose cost is known, against timm's models, and on the meta device against the CPU."""

import csv
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import backbones
from backbones.cli.common import build_model, check_model, default_img_size, format_img_size, parse_img_size
from backbones.cli.complexity import count, count_model, main


class Function(nn.Module):
    """A module around a function of the image, with one weight so that it has a device."""

    def __init__(self, function, weight_shape=(1,), device="cpu") -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(weight_shape, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


def attend(x: Tensor, weight: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[:, :, :20, :8], x[:, :, :12, :8], x[:, :, :12, :])


def attend_by_kernel(x: Tensor, weight: Tensor) -> Tensor:
    q, k = x[:, :, :20, :8], x[:, :, :12, :8]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k)[0]


def attend_explicitly(x: Tensor, weight: Tensor) -> Tensor:
    return (x[:, :, :20, :8] @ x[:, :, :12, :8].transpose(-2, -1)).softmax(-1) @ x[:, :, :12, :]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("function", "weight_shape", "size", "macs"),
    [
        (attend, (1,), (3, 32, 16), 3 * 20 * 12 * (8 + 16)),
        (attend_explicitly, (1,), (3, 32, 16), 3 * 20 * 12 * (8 + 16)),
        (lambda x, w: w @ x, (4, 8), (3, 8, 5), 3 * 4 * 8 * 5),  # the first operand is broadcast
        (lambda x, w: torch.baddbmm(x[0], x[0], x[0]), (1,), (3, 8, 8), 3 * 8**3),
        (lambda x, w: torch.einsum("bchw,cd->bdhw", x, w), (3, 7), (3, 4, 5), 3 * 7 * 4 * 5),
        (F.conv2d, (6, 3, 3, 3), (3, 10, 10), 8 * 8 * 6 * 3 * 9),
        (lambda x, w: F.conv2d(x, w, None, 2, 1, 1, 3), (3, 1, 3, 3), (3, 10, 10), 5 * 5 * 3 * 9),
        (lambda x, w: F.conv_transpose2d(x, w, stride=2), (3, 6, 2, 2), (3, 5, 5), 5 * 5 * 3 * 6 * 4),
        (lambda x, w: F.conv1d(x[:, 0], w), (6, 4, 3), (1, 4, 10), 8 * 6 * 4 * 3),
        # an offset a tap; four multiplications a sampled value
        (lambda x, w: deform_conv2d(x, x.new_zeros(1, 8, 9, 9), w), (6, 3, 2, 2), (3, 10, 10), 81 * (6 + 4) * 3 * 4),
        (lambda x, w: F.batch_norm(x, w, w, w, w), (3,), (3, 4, 5), 2 * 60),
        (lambda x, w: F.layer_norm(x, (5,), w, w), (5,), (3, 4, 5), 5 * 60),
        (lambda x, w: F.gelu(x).softmax(-1) + x * 2 - x.mean(), (1,), (3, 4, 5), 0),
    ],
)
def test_known_costs(function, weight_shape, size, macs, device) -> None:
    found = count(Function(function, weight_shape, device), size)
    assert found.macs == macs
    assert found.unsupported == {}


def test_kernel_called_by_name_counts_as_attention() -> None:
    assert count(Function(attend_by_kernel), (3, 32, 16)).macs == 3 * 20 * 12 * 16


def test_operator_that_costs_is_reported() -> None:
    found = count(Function(lambda x, w: torch.cdist(x[0], x[0])), (3, 4, 5))
    assert list(found.unsupported) == ["aten::cdist"]


@pytest.mark.parametrize(
    ("name", "gmacs"), [("resnet50", 4.11), ("vit_small_patch16_224", 4.61), ("swin_tiny_patch4_window7_224", 4.51)]
)
def test_timm_models(name: str, gmacs: float) -> None:
    found, size = count_model(name)
    assert size == (224, 224)
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=0.005)
    assert found.unsupported == {}


def test_fused_and_explicit_attention_cost_the_same() -> None:
    model = build_model("test_vit", device="meta")
    fused = count(model, (3, 160, 160))
    for block in model.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    assert count(model, (3, 160, 160)).macs == fused.macs


# What is counted is the definition; on a CPU each tile of queries also meets keys that only its other queries see.
TILED = ("test_dinat", "test_dinat_s", "test_moh", "test_nat", "test_nat_moh", "test_transnext")


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", *backbones.list_models("test_*")])
def test_meta_device_counts_as_the_cpu_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where a model picks another kernel on a CPU, it may pad and so do more than what is counted.
    monkeypatch.setattr("backbones.kernels.machine._enabled", False)
    models = [build_model(name, device=device) for device in ("meta", "cpu")]
    size = models[0].default_cfg["input_size"] if models[0].default_cfg.get("fixed_input_size") else (3, 64, 96)
    counts = [count(model, size) for model in models]
    if name in TILED:
        assert counts[0].params == counts[1].params and counts[0].macs < counts[1].macs
    else:
        assert counts[0] == counts[1]
    assert counts[0].macs > 0


@pytest.mark.parametrize(("function", "activations"), [(attend, 3 * 20 * 16), (attend_explicitly, 3 * 20 * (12 + 16))])
def test_activations_are_what_products_write(function, activations: int) -> None:
    assert count(Function(function), (3, 32, 16), activations=True).activations == activations
    assert count(Function(function), (3, 32, 16)).activations is None


def test_parameters_with_and_without_the_classifier() -> None:
    model = build_model("test_convnext")
    found = count(model, (3, 64, 64))
    classifier = model.head.fc.weight.numel() + model.head.fc.bias.numel()
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.params_backbone == found.params - classifier


def test_counting_leaves_the_model_as_it_was() -> None:
    model = build_model("test_convnext").train()
    count(model, (3, 64, 64))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parts_are_the_stages() -> None:
    found, _ = count_model("test_van", (64, 96))
    shapes = {part.name: part.shape for part in found.parts}
    assert list(shapes) == ["stem", "stages.0", "stages.1", "stages.2", "stages.3", "norm", "head"]
    assert shapes["stages.0"][1:3] == (16, 24) and shapes["stages.3"][1:3] == (2, 3)
    assert sum(part.params for part in found.parts) == found.params
    assert sum(part.macs for part in found.parts) == found.macs


def test_size_and_options_reach_the_model() -> None:
    assert build_model("test_vit", (96, 64)).patch_embed.img_size == (96, 64)
    assert build_model("test_van", num_classes=7).get_classifier().out_features == 7
    assert (
        default_img_size(build_model("test_van", device="meta")) == timm.get_pretrained_cfg("test_van").input_size[1:]
    )
    assert count(Function(F.conv2d, (6, 3, 3, 3)), (torch.zeros(1, 3, 10, 10),) * 1).macs == 8 * 8 * 6 * 3 * 9


@pytest.mark.parametrize("size", [(3, 64), (3, 0, 64), ("3", 64, 64)])
def test_bad_input_size(size) -> None:
    with pytest.raises(ValueError, match="input_size"):
        count(build_model("test_convnext"), size)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("van_b00", "unknown model 'van_b00'; near names: .*van_b0"),
        ("nowhere_at_all:make", "cannot find 'nowhere_at_all:make'"),
        ("timm:no_such_thing", "no_such_thing"),
        ("timm:__version__", "not a callable"),
    ],
)
def test_unknown_model(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model(spec)


def test_callable_that_returns_no_model() -> None:
    with pytest.raises(ValueError, match="returned a list"):
        build_model("timm:list_modules")


def test_image_sizes_as_text() -> None:
    assert parse_img_size("224") == (224, 224) and parse_img_size("256x192") == (256, 192)
    assert format_img_size((224, 224)) == "224" and format_img_size((256, 192)) == "256x192"
    for text in ("0", "12x", "1x2x3", "big"):
        with pytest.raises(Exception, match="no image size"):
            parse_img_size(text)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "counts.csv"
    assert main(["test_van", "test_convnext", "--img-size", "64x96", "--stages", "--csv", str(path)]) == 0
    out = capsys.readouterr().out
    assert "64x96" in out and "stages.3" in out
    rows = list(csv.DictReader(path.open()))
    assert [row["model"] for row in rows] == ["test_van", "test_convnext"]
    assert int(rows[0]["macs"]) == count_model("test_van", (64, 96))[0].macs


def test_command_goes_on_after_a_model_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("from before\n")
    assert main(["test_van", "--img-size", "16", "--csv", str(path)]) == 1
    assert path.read_text() == "from before\n"
    assert main(["test_van", "test_resnet", "--img-size", "16", "--csv", str(path)]) == 1
    captured = capsys.readouterr()
    assert "test_van" in captured.err and "32" in captured.err
    assert "test_resnet" in captured.out and "test_resnet" in path.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["van_b99"],
        ["test_van", "--img-size", "1x2x3"],
        ["configs/van/classification/van-b0_8xb128_in1k.py"],  # a config has no size of its own
        ["configs/none.py", "--img-size", "224"],
        ["configs/van/classification/van-b0_8xb128_in1k.py", "--img-size", "224", "--num-classes", "3"],
        ["configs/van/classification/van-b0_8xb128_in1k.py", "--img-size", "224", "--activations"],
    ],
)
def test_command_refuses_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
