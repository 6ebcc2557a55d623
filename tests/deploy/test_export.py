"""Every classifier as a file of every format: what runtimes compute, and what a failure leaves behind."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import ExportedProgram
from torchvision.ops import nms

import backbones
from backbones.deploy import FORMATS, DensePreprocessing, ExportError, Preprocessing, export, load_export
from backbones.deploy.agreement import INT8_TOLERANCE, BoxAgreement, ScoreAgreement
from backbones.deploy.export import difference
from backbones.deploy.programs import capture, load_program, run_program
from backbones.deploy.quantization import _within, quantize
from tests.deploy.cases import int8_layers
from tests.every_module import lively
from tests.test_models import TINY, images
from tools.export_page import OPEN
from tools.int8_table import SUFFIXES

PREPROCESSING = Preprocessing(input_size=(3, 64, 96), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def check_int8(model: nn.Module, path: Path, crops: Tensor) -> None:
    """The file quantised is near the model, at a size and batch that were not calibrated, too."""
    weighted = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    layers = sum(not _within(name, model.int8_float_layers) for name in weighted)
    target = path.with_stem(f"{path.stem}_int8")
    quantize(SUFFIXES[path.suffix], path, target, crops.split(8), model.int8_float_layers)
    runtime = load_export(target)
    for x in (crops, nn.functional.interpolate(crops[:3], (77, 130), mode="bilinear")):
        with torch.no_grad():
            expected = model(x)
        near = ScoreAgreement()
        near.add([expected], runtime(x))
        assert 0 < near.relative_error <= INT8_TOLERANCE / 3, (path.suffix, x.shape)
    assert int8_layers(target) >= layers, path.suffix


@pytest.mark.slow
@pytest.mark.usefixtures("no_decomposing")
@pytest.mark.parametrize("name", TINY)
def test_every_format_computes_what_the_model_does(name: str, crops: Tensor, tmp_path: Path) -> None:
    """At sizes that the exporter never saw, too: smaller, larger, odd, other batches; and nearly so in eight bits.

    One test for float and int8, because exporters take longest. (PT2E on every model is in tests/clients.)
    """
    model = lively(name).eval()
    paths = export(model, tmp_path, name, list(FORMATS), img_size=(64, 96), preprocessing=PREPROCESSING)
    assert {path.suffix for path in paths} == {runtime.suffix for runtime in FORMATS.values()}
    generator = torch.Generator().manual_seed(2)
    sizes = ((1, 32, 33), (2, 77, 130), (1, 250, 321))
    samples = [torch.randn(size[0], 3, *size[1:], generator=generator) for size in sizes]
    with torch.no_grad():
        expected = [model(x) for x in samples]
    for path in paths:
        runtime = load_export(path)
        for x, y in zip(samples, expected, strict=True):
            assert difference([y], runtime(x)) < model.export_tolerance, (path.suffix, x.shape)
        assert len(runtime.metadata["differences"]) == 3
        assert runtime.metadata["dynamic"] == list(OPEN["classification"])
        if path.suffix != ".pt2":
            check_int8(model, path, crops)


class Mean(nn.Module):
    """The least model: means of channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Named(nn.Module):
    """Returns its output by name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"mean": x.mean((2, 3))}


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Mean(), nn.Linear(3, 7)).eval()


class InPlace(nn.Module):
    """Writes to a part of what it returns."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        x[:, 0].clamp_(min=0)
        return x


class Boxes(nn.Module):
    """Suppresses boxes, and has an operator that is translated in parts alone (``movedim`` of several dimensions)."""

    def forward(self, x: Tensor) -> Tensor:
        scores, boxes = x.mean((1, 3))[0], x[0, 0, :, :4].abs().cumsum(1)
        kept = nms(boxes, scores, 0.5)
        return torch.zeros_like(scores).scatter(0, kept, scores[kept]) + x.movedim((0, 1), (1, 0)).mean()


class Columns(nn.Module):
    """A grid whose first side is the columns, a batch norm without weights, and bits that two numbers share."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.arange(side, dtype=torch.float32) for side in x.shape[2:])
        grid, _ = torch.meshgrid(columns, rows, indexing="xy")
        return self.norm(x) + grid + (x.long() & 3)


@pytest.mark.parametrize("model", [InPlace(), Boxes(), Columns()])
def test_what_must_be_decomposed_is(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decompose, calls = ExportedProgram.run_decompositions, []

    def counted(program: ExportedProgram, *args: Any) -> ExportedProgram:
        calls.append(program)
        return decompose(program, *args)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    (path,) = export(model.eval(), tmp_path, "odd", ["onnx"], img_size=(32, 40), batch=1, dynamic_size=False)
    assert len(calls) == 1
    x = torch.randn(1, 3, 32, 40)
    torch.testing.assert_close(load_export(path)(x)[0], model(x))


class OneBox(nn.Module):
    """A box of each image, its score and label."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = x.mean((2, 3))[:, :1].sigmoid()
        boxes = torch.cat([0 * scores, 0 * scores, 9 + scores, 9 + scores], 1)[:, None]
        return boxes, scores, (0 * scores).long()


def test_half_boxes_are_compared_by_overlap(tmp_path: Path) -> None:
    """Since another box may stay of those that overlap by about the limit."""

    def other_box(expected: object, found: object) -> float:
        return 1.0

    options: dict[str, Any] = {"formats": ["onnx", "openvino"], "compare": other_box, "agreement": BoxAgreement}
    paths = export(OneBox().eval(), tmp_path, "boxes", half=True, **options)
    assert all(0 <= d < 1e-2 for path in paths for d in load_export(path).metadata["differences"].values())
    with pytest.raises(ExportError, match="differs from the model by 1"):
        export(OneBox().eval(), tmp_path, "boxes", **options)


def test_a_file_says_how_to_use_it(linear: nn.Module, tmp_path: Path) -> None:
    said = {"classes": [str(i) for i in range(7)], "license": "apache-2.0"}
    for path in export(linear, tmp_path, "a.tag", list(FORMATS), preprocessing=PREPROCESSING, metadata=said):
        metadata = load_export(path).metadata
        assert Preprocessing.of_config(metadata) == PREPROCESSING
        assert metadata.items() >= said.items()
        assert metadata["dynamic"] == ["batch", "height", "width"]
        assert len(metadata["weights_sha256"]) == 64 and metadata["input"] == "rescaled by mean and std"
        assert all(value < 1e-4 for value in metadata["differences"].values())
        json.dumps(metadata)


def test_rescaling_inside_the_file(linear: nn.Module, tmp_path: Path) -> None:
    pixels = 255 * torch.rand(2, 3, 40, 50)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    with torch.no_grad():
        expected = linear((pixels / 255 - mean) / std)
    for path in export(linear, tmp_path, "linear", list(FORMATS), preprocessing=PREPROCESSING, rescale=True):
        torch.testing.assert_close(load_export(path)(pixels)[0], expected, atol=1e-4, rtol=1e-4)


def test_fixed_sizes(linear: nn.Module, tmp_path: Path) -> None:
    for path in export(linear, tmp_path, "linear", list(FORMATS), img_size=(40, 50), batch=1, dynamic_size=False):
        runtime = load_export(path)
        assert list(runtime.metadata["differences"]) == ["1 x 40 x 50"]
        assert runtime.metadata["batch"] == 1
        runtime(torch.randn(1, 3, 40, 50))
        with pytest.raises(Exception):  # noqa: B017 (each runtime has its own type)
            runtime(torch.randn(2, 3, 40, 60))


def test_notes_of_another_program(linear: nn.Module, tmp_path: Path) -> None:
    import onnx

    (path,) = export(linear, tmp_path, "linear", ["onnx"])
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"author": "someone"})
    onnx.save(model, path)
    assert load_export(path).metadata == {"author": "someone"}


@pytest.mark.parametrize(
    "preprocessing",
    [
        PREPROCESSING,
        DensePreprocessing(input_size=(3, 64, 96), keep_ratio=True, mean=(0.5,) * 3, std=(0.2,) * 3),
    ],
    ids=["classifier", "dense"],
)
def test_images_are_prepared_at_the_size_of_the_file(
    preprocessing: Preprocessing | DensePreprocessing, linear: nn.Module, tmp_path: Path
) -> None:
    """At the fixed one, whatever the model's own is; that stays where sizes are open."""
    image = Image.effect_noise((75, 60), 80).convert("RGB")
    for dynamic in (False, True):
        options = {"img_size": (40, 50), "dynamic_size": dynamic, "preprocessing": preprocessing}
        (path,) = export(linear, tmp_path, "linear", ["pt2"], **options)
        found = type(preprocessing).of_config(load_export(path).metadata)
        if dynamic:
            assert found == preprocessing
        else:
            assert found.input_size == (3, 40, 50)
            assert found.transform()(image).shape == (3, 40, 50)


class Floored(nn.Module):
    """Not less than a number, which ONNX Runtime's converter leaves in float32 beside a float16."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("floor", torch.zeros(512))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.floor)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_half_weights(format: str, tmp_path: Path) -> None:
    model = nn.Sequential(Mean(), nn.Linear(3, 512), Floored(), nn.Linear(512, 512)).eval()
    sizes = {}
    for half in (False, True):
        (path,) = export(model, tmp_path / str(half), "wide", [format], half=half)
        sizes[half] = sum(file.stat().st_size for file in path.parent.iterdir())
        assert load_export(path)(images())[0].dtype == torch.float32
    assert sizes[True] < 0.6 * sizes[False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": []}, "name one format or more: onnx, openvino, pt2"),
        ({"formats": ["tflite"]}, "'tflite' is none of onnx, openvino, pt2"),
        ({"formats": "tflite"}, "'tflite' is none of onnx, openvino, pt2"),
        ({"name": "in/linear"}, "'in/linear' is no name of a file: its folder is `out`"),
        ({"img_size": 224}, r"img_size is height and width, as \(224, 224\), not 224"),
        ({"img_size": (3, 224, 224)}, r"height and width, as \(224, 224\), not \(3, 224, 224\)"),
        (
            {"model": nn.Sequential(Mean(), nn.Linear(3, 7)).double()},
            r"torch.float64: export the model in float32, as model.float\(\)",
        ),
        ({"model": Named()}, "linear returns dict, not a tensor or a tuple of tensors: wrap it"),
        ({"int8": "dynamic", "inputs": lambda *size: ()}, "of models that take images alone"),
        ({"img_size": (31, 64)}, "31 x 64 pixels are below 32 x 32"),
        ({"batch": 0}, "one image or more, not 0"),
        ({"opset": 17}, "opset 17 cannot be written: choose one from 18 to"),
        ({"opset": 99}, "opset 99 cannot be written: choose one from 18 to"),
        ({"rescale": True}, "needs the mean"),
        ({"formats": ["pt2"], "half": True}, "no half weights"),
    ],
)
def test_mistakes_leave_nothing(options: dict, message: str, linear: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export(**{"model": linear, "out": tmp_path / "out", "name": "linear", **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Wrong(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + (1e-3 * x.amax((2, 3)) if torch.compiler.is_compiling() else 0)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_computes_something_else_gets_no_name(format: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ExportError, match=r"differs from the model by .* more than 1e-04: no file was written"):
        export(Wrong(), tmp_path, "wrong", [format])
    assert os.listdir(tmp_path) == ["mine.txt"]


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * (2 if x.shape[3] == 224 else 3)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 40 * 50, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_size_that_the_model_fixes_is_named(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 224, 224)
    with pytest.raises(ValueError, match="the model fixes the width of its input: export it for fixed sizes"):
        capture(Fixed(), (x,), (2, 3))
    capture(Fixed(), (x,), (0, 2))
    message = r"flat does not take 1 x 77 x 32 pixels: RuntimeError: mat1.*; export it for a fixed size$"
    with pytest.raises(ExportError, match=message):
        export(Flat(), tmp_path / "out", "flat", img_size=(40, 50))
    with pytest.raises(ExportError, match=r"flat does not take 2 x 50 x 50 pixels: RuntimeError: mat1.*\)$"):
        export(Flat(), tmp_path / "out", "flat", img_size=(50, 50), dynamic_size=False)
    assert not os.listdir(tmp_path)


def test_what_the_exporter_refuses_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="branch cannot be exported: ") as caught:
        export(Branch(), tmp_path, "branch")
    assert "\n" not in str(caught.value) and not os.listdir(tmp_path)


@pytest.mark.parametrize("out", ["file", "file/out", os.devnull, f"{os.devnull}/out"])
def test_a_folder_that_cannot_be_written(out: str, linear: nn.Module, tmp_path: Path) -> None:
    """Not even by root."""
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot write to .*name another folder with --out") as caught:
        export(linear, tmp_path / out, "linear", ["pt2"])
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_opset_that_a_runtime_lacks(
    format: str, linear: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*args):
        raise RuntimeError("no such operator\nand advice")

    monkeypatch.setattr(FORMATS[format], "write", write)
    message = f"cannot be exported to {format}: RuntimeError: no such operator"
    for opset, remedy in ((18, ""), (19, r" \(opset 18 is the one that is tested\)")):
        with pytest.raises(ExportError, match=f"{message}{remedy}$"):
            export(linear, tmp_path, "linear", [format], opset=opset)
    assert not os.listdir(tmp_path)


def test_another_opset(linear: nn.Module, tmp_path: Path) -> None:
    (path,) = export(linear, tmp_path, "linear", ["onnx"], opset=20)
    assert load_export(path)(images())[0].shape == (2, 7)


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_is_named_with_its_remedy(
    format: str, package: str, linear: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ExportError, match=rf"need {package}: pip install 'efficient-backbones\[export\]'"):
        export(linear, tmp_path, "linear", [format])
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_one_sentence(linear: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch writes by itself it ends the process."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="No space left on device") as caught:
        export(linear, tmp_path / "out", "linear", ["pt2"])
    assert "\n" not in str(caught.value) and not os.listdir(tmp_path)


def test_files_that_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match="no exported file"):
        load_export(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="not an exported file"):
        load_export(tmp_path / "a.txt")
    (tmp_path / "a.xml").touch()
    with pytest.raises(FileNotFoundError, match=r"no a.bin beside .*a.xml.*copy both files"):
        load_export(tmp_path / "a.xml")
    (tmp_path / "cut.bin").touch()
    for suffix in (runtime.suffix for runtime in FORMATS.values()):
        (tmp_path / f"cut{suffix}").write_bytes(b"PK nothing")
        with pytest.raises(ValueError, match=r"cannot be loaded: .+; copy or export it again$") as caught:
            load_export(tmp_path / f"cut{suffix}")
        assert "\n" not in str(caught.value) and ".cpp" not in str(caught.value)
    assert not caplog.records


def test_ties_are_sorted_as_in_the_model(tmp_path: Path) -> None:
    class Order(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort((x[:, 0].flatten(1) > 0).float(), dim=1, stable=True)[1]

    for path in export(Order(), tmp_path, "order", ["onnx", "openvino"], img_size=(40, 50)):
        x = images(33, 70)
        assert torch.equal(load_export(path)(x)[0], Order()(x))


def test_as_many_queries_as_channels_of_a_head(tmp_path: Path) -> None:
    """Shapes that do not say how attention lays out its output: HaloNet-H1's of 64 queries and 64 channels.

    And a last map of one block, as at the size that is its own, which is no limit.
    """
    model = lively("test_halonet", v_ratio=1.0, depths=(1, 1, 1, 2)).eval()
    last = model.stages[3].blocks[1].attn
    assert last.block_size**2 == last.head_dim == last.head_dim_v
    for path in export(model, tmp_path, "halonet", ["onnx", "pt2"], img_size=(128, 128)):
        for x in (images(33, 70), images(260, 140)):
            with torch.no_grad():
                assert difference([model(x)], load_export(path)(x)) < model.export_tolerance


def test_exporting_takes_as_long_as_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the nodes are looked at about twice as often, and not four times."""
    from onnx_ir import Node

    looks, look = [0], Node.op_identifier

    def counted(self: Node) -> Any:
        looks[0] += 1
        return look(self)

    monkeypatch.setattr(Node, "op_identifier", counted)
    found = []
    for depth in (40, 80):
        looks[0] = 0
        model = nn.Sequential(*(nn.Sigmoid() for _ in range(depth)))
        program = capture(model, (torch.randn(2, 3, 32, 32),), (0, 2, 3))
        FORMATS["onnx"].write(program, tmp_path / f"{depth}.onnx", 18, (0, 2, 3), False)
        found.append(looks[0])
    assert 0 < found[1] < 2.5 * found[0], found


def test_norms_of_tokens_are_not_transposed() -> None:
    """Those between a permutation and its inverse: others, and those that compute no weight, are left."""

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm2d(3, affine=i != 2) for i in range(3))
            for norm in self.norms:
                nn.init.normal_(norm.running_mean)
                nn.init.uniform_(norm.running_var, 0.5, 1.5)
                if norm.affine:
                    nn.init.normal_(norm.weight)
                    nn.init.normal_(norm.bias)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            tokens = x.permute(0, 2, 3, 1)
            inside, bare = (self.norms[i](tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for i in (0, 2))
            outside = self.norms[1](x)
            return inside.relu(), inside + 1, bare, outside, self.norms[1](tokens.permute(0, 3, 1, 2))

    torch.manual_seed(0)
    model, x = Norms().eval(), images(33, 70)
    program = capture(model, (images(40, 50),), (0, 2, 3))
    operators = [str(node.target) for node in program.graph.nodes]
    assert operators.count("aten.batch_norm.default") == 3
    for y, z in zip(run_program(program)(x), model(x), strict=True):
        torch.testing.assert_close(y, z)


def test_a_program_is_loaded_as_by_pytorch(tmp_path: Path) -> None:
    """With the same operators, and the same sizes of what they compute."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, padding=1) for _ in range(3)), nn.Flatten(), nn.Softmax(1))
    (path,) = export(net, tmp_path, "net", ["pt2"])
    found, expected = load_program(path), torch.export.load(path)
    assert str(found.graph) == str(expected.graph)
    assert found.range_constraints == expected.range_constraints
    for node, twin in zip(found.graph.nodes, expected.graph.nodes, strict=True):
        assert str(node.meta.get("val")) == str(twin.meta.get("val"))


def test_all_models_state_how_far_files_may_be_off() -> None:
    wide = {name for name in TINY if backbones.create_model(name, device="meta").export_tolerance > 1e-4}
    assert wide == {"test_sgformer"}  # which sorts
