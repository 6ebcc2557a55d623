"""Segmentation models, RetinaNet and denoisers as files of every format."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import backbones
from backbones.cli import check_export, export
from backbones.deploy import FORMATS, DensePreprocessing, load_export
from backbones.deploy import export as write
from backbones.deploy.dense import Detector, Segmentation, denoiser, detection_difference
from backbones.deploy.export import _batches, difference
from backbones.deploy.quantization import _within
from tests.deploy.cases import ROOT, int8_layers, network, segmentation_base
from tests.every_module import SHALLOW
from tools import export_page
from tools.export_page import CASES, Case

SEGMENTATION = str(ROOT / "configs/van/segmentation/van-test_semfpn_1xb8-600i_digits-256x192.py")
RETINANET = str(ROOT / "configs/van/detection/van-test_retinanet-fpn_1xb8-400i_digits-256x192.py")
MASK_RCNN = str(ROOT / "configs/litv2/detection/litv2-test_mask-rcnn-fpn_1xb8-400i_digits-256x192.py")
COCO = str(ROOT / "configs/van/detection/van-b0_retinanet-fpn_8xb2-1x_coco.py")


def of_task(task: str) -> list[Any]:
    return [pytest.param(case, id=str(case)) for case in CASES if case.task == task]


def check_files(module: nn.Module, case: Case, out: Path, draw: Any, sizes: list, compare: Any, **options: Any) -> None:
    """What the table in docs/export.md says is open is open, and files compute what the module does at ``sizes``."""
    paths = write(
        module,
        out,
        case.name,
        list(FORMATS),
        batch=None if "batch" in case.open else 2,
        dynamic_size="height" in case.open,
        compare=compare,
        **options,
    )
    for path in paths:
        runtime = load_export(path)
        assert tuple(runtime.metadata["dynamic"]) == case.open
        for size in sizes:
            x = draw(*size)
            with torch.no_grad():
                expected = module(*x)
            expected = (expected,) if isinstance(expected, Tensor) else expected
            limit = getattr(module, "export_tolerance", 1e-4)
            assert (compare or difference)(expected, runtime(*x)) < limit, (path.suffix, size)


def noise(batch: int, height: int, width: int) -> tuple[Tensor]:
    generator = torch.Generator().manual_seed(batch + height)
    return (torch.randn(batch, 3, height, width, generator=generator),)


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.usefixtures("no_decomposing")
@pytest.mark.parametrize("case", of_task("segmentation"))
def test_segmentation_models(case: Case, tmp_path: Path) -> None:
    module = Segmentation(network(case.name, segmentation_base(case.name)), size_divisor=32)
    check_files(module, case, tmp_path, noise, [(1, 77, 130), (2, 33, 64)], None, img_size=(64, 96))


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.usefixtures("no_decomposing")
@pytest.mark.parametrize("case", of_task("detection"))
def test_detectors(case: Case, tmp_path: Path) -> None:
    module = Detector(network(case.name, "retinanet_digits"), size_divisor=32).eval()
    sizes = [(2, 77, 130), (2, 160, 201)]
    check_files(module, case, tmp_path, noise, sizes, detection_difference, img_size=(160, 288))


@pytest.mark.slow
@pytest.mark.parametrize("conditions", ["none", "classes", "text"])
def test_denoisers(conditions: str, tmp_path: Path) -> None:
    options: dict = {"none": {"num_classes": 0}, "classes": {}, "text": {"num_classes": 0, "text_dim": 24}}[conditions]
    torch.manual_seed(0)
    model = backbones.create_model("test_ptdit", depth=2, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    step = denoiser(model)
    (case,) = (case for case in CASES if case.task == "generation")
    check_files(step, case, tmp_path, step.inputs, [(2, 16, 24)], None, img_size=(16, 24), inputs=step.inputs)


@pytest.mark.mm
def test_detector_equals_mmdetections() -> None:
    """Boxes above the threshold, of padded images, for whatever number of images."""
    from mmdet.structures import DetDataSample

    net = network("test_van", "retinanet_digits")
    nn.init.normal_(net.bbox_head.retina_cls.bias, std=0.5)
    nn.init.normal_(net.bbox_head.retina_reg.weight, std=0.05)
    module = Detector(net, size_divisor=32).eval()
    module.head.test_cfg.score_thr = module.score_threshold = 0.6
    (x,) = noise(3, 77, 130)
    shape = {"img_shape": (77, 130), "ori_shape": (77, 130), "scale_factor": (1.0, 1.0)}
    with torch.no_grad():
        found = module(x)
        padded = nn.functional.pad(x, (0, 30, 0, 19))
        expected = net.predict(padded, [DetDataSample(metainfo=dict(shape)) for _ in x])
    for sample, boxes, scores, labels in zip(expected, *found, strict=True):
        kept = scores > 0.6
        assert 10 < kept.sum() == len(sample.pred_instances)
        torch.testing.assert_close(boxes[kept], sample.pred_instances.bboxes)
        torch.testing.assert_close(scores[kept], sample.pred_instances.scores)
        assert torch.equal(labels[kept], sample.pred_instances.labels)


def test_detections_are_compared_whatever_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = 100 * torch.rand(2, 40, 4, generator=generator)
    scores, labels = torch.rand(2, 40, generator=generator), torch.arange(80).view(2, 40) % 3
    order = torch.randperm(40, generator=generator)
    shuffled = [boxes[:, order], scores[:, order], labels[:, order]]
    assert detection_difference([boxes, scores, labels], shuffled) == 0
    other = labels.clone()
    other[1, :2] = 7
    assert detection_difference([boxes, scores, labels], [boxes, scores, other]) < 1e-6  # two of forty
    other[1, :3] = 7
    assert detection_difference([boxes, scores, labels], [boxes, scores, other]) > 0.05
    assert detection_difference([boxes, scores, labels], [boxes + 1, scores, labels]) == pytest.approx(0.01, rel=0.1)
    assert detection_difference([boxes, scores, labels], [boxes, scores + 0.1, labels]) > 0.05
    assert detection_difference([boxes, scores, labels], [boxes[:1], scores[:1], labels[:1]]) == math.inf


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, size in enumerate([(120, 90), (90, 120), (101, 77)]):
        Image.effect_noise(size, 80).convert("RGB").resize(size).save(folder / f"{i}.png")
    return folder


@pytest.mark.mm
@pytest.mark.parametrize("config", [SEGMENTATION, COCO])
def test_preprocessing_is_that_of_the_config(config: str, photos: Path) -> None:
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    from backbones.mm.preprocessing import preprocessing_of
    from backbones.mm.training.run import load_config

    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    steps = cfg.test_dataloader.dataset.pipeline
    settings = cfg.model.data_preprocessor
    preprocessing: Any = preprocessing_of(cfg, config)
    prepare = Compose([step for step in steps if not step["type"].endswith("Annotations")])
    for file in sorted(photos.iterdir()):
        pixels = prepare({"img_path": str(file)})["inputs"].flip(0).float()
        expected = (pixels - torch.tensor(settings.mean).view(-1, 1, 1)) / torch.tensor(settings.std).view(-1, 1, 1)
        found = preprocessing.transform()(Image.open(file))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(preprocessing.transform(rescale=False)(Image.open(file)), pixels)
    said = {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    said |= {"input_size": list(preprocessing.input_size), "classes": []}
    said |= {"keep_ratio": preprocessing.keep_ratio, "size_divisor": preprocessing.size_divisor}
    assert DensePreprocessing.of_config(said) == preprocessing


def test_same_boxes() -> None:
    """In any order; what is near the threshold or in the last place may be another, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    places = 200 * torch.rand(20, 4, generator=generator)
    scores, labels = torch.linspace(0.9, 0.1, 20), torch.arange(20) % 3
    boxes = places, scores, labels

    def changed(part: int, row: int, by: float) -> list[Tensor]:
        parts = [part.clone() for part in boxes]
        parts[part][row] += by
        return parts

    def same(found: Any, threshold: float = 0.05, most: int = 100) -> bool:
        forth, back = (check_export.same_boxes(*pair, threshold, most) for pair in ((boxes, found), (found, boxes)))
        assert forth == back
        return forth

    assert same([part.flip(0) for part in boxes])
    assert same(changed(0, 7, 0.9)) and not same(changed(0, 7, 2))
    assert same(changed(1, 7, 5e-4)) and not same(changed(1, 7, 2e-3))
    assert not same(changed(2, 7, 1))
    fewer = [part[:-1] for part in boxes]
    assert not same(fewer) and same(fewer, threshold=0.1 - 5e-5)
    assert not same(changed(0, 19, 50)) and same(changed(0, 19, 50), most=20)
    assert not same(changed(0, 18, 50), most=20)
    nothing = [part[:0] for part in boxes]
    assert not same(nothing) and check_export.same_boxes(nothing, nothing, 0.05, 100)


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.parametrize(("config", "rescale"), [(SEGMENTATION, True), (RETINANET, False)])
def test_a_trained_model_is_exported_and_checked(
    config: str, rescale: bool, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from tests.cli.test_predict import save_untrained

    classes = tuple("abcdefghij") if config == RETINANET else ("ground", *"abcdefghij")
    checkpoint = save_untrained(config, tmp_path / "iter_1.pth", classes=classes)
    if config == RETINANET:  # a dozen boxes, not the best hundred of thousands: which one comes last is rounding there
        content = torch.load(checkpoint)
        content["state_dict"]["bbox_head.retina_cls.weight"].normal_(std=0.02)
        content["state_dict"]["bbox_head.retina_cls.bias"].fill_(-4.3)
        torch.save(content, checkpoint)
    options = ["--rescale"] if rescale else []
    arguments = [str(checkpoint), "--config", config, "--format", "pt2", "--out", str(tmp_path), *options]
    assert export.main(arguments) == 0
    runtime = load_export(tmp_path / "iter_1.pt2")
    assert runtime.metadata["classes"] == list(classes)
    assert runtime.metadata["dynamic"][-2:] == ["height", "width"]
    assert runtime.metadata["task"] == ("detection" if config == RETINANET else "segmentation")
    assert len(runtime.metadata["weights_sha256"]) == 64
    capsys.readouterr()
    assert check_export.main([str(tmp_path / "iter_1.pt2"), "--images", str(photos)]) == 0
    table = capsys.readouterr().out
    assert f"3 of 3 images have the same {'boxes' if config == RETINANET else 'classes'}" in table
    row = next(line for line in table.splitlines() if "0.png" in line)
    assert row.count("%") >= 2
    # of another size than the config's, at which the model is asked as well
    assert export.main([*arguments, "--size", "160x224", "--batch", "2"]) == 0
    assert check_export.main([str(tmp_path / "iter_1.pt2"), "--images", str(photos)]) == 0
    assert "3 of 3 images have the same" in capsys.readouterr().out


def shallow(config: str, path: Path, **resize: Any) -> str:
    """A config with one block of each kind, for images that are resized in another way."""
    from backbones.mm.training.run import load_config

    steps = [dict(step) for step in load_config(config).test_dataloader.dataset.pipeline]
    for step in steps:
        if step["type"] == "Resize":
            step.update(resize)
    depths = SHALLOW["test_van"]["depths"]
    data = f"test_dataloader = dict(dataset=dict(pipeline={steps}))"
    path.write_text(f"_base_ = {config!r}\nmodel = dict(backbone=dict(depths={depths}))\n{data}\n")
    return str(path)


def save_lively(config: str, path: Path) -> Path:
    """An untrained model whose detections differ in score."""
    from tests.cli.test_predict import save_untrained

    content = torch.load(save_untrained(config, path))
    for name, value in content["state_dict"].items():
        if name.endswith("retina_cls.weight"):
            value.normal_(std=0.1)
    torch.save(content, path)
    return path


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "resize", "sizes", "calibrated"),
    [
        (SEGMENTATION, {"scale": (96, 64)}, ["--size", "64x96"], "7 x 64 x 96"),  # is written faster
        (
            RETINANET,
            {"scale": (288, 160), "keep_ratio": True},
            ["--img-size", "160x288"],
            "3 x 160-213 x 160-213",
        ),
    ],
    ids=["segmentation", "detection"],
)
def test_a_trained_model_is_quantised_and_checked(
    config: str,
    resize: dict[str, Any],
    sizes: list[str],
    calibrated: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """Neck and head as well; where sizes are open, on images of sizes of their own."""
    tiny = shallow(config, tmp_path / "tiny.py", **resize)
    checkpoint = str(save_lively(tiny, tmp_path / "tiny.pth"))
    arguments = [checkpoint, "--config", tiny, "--out", str(tmp_path), *sizes, "--format", *FORMATS]
    assert export.main([*arguments, "--int8", str(photos)]) == 0
    modules = export.load_source(checkpoint, config=tiny).model.modules()
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in modules)
    for format in FORMATS:
        path = tmp_path / f"tiny_int8{FORMATS[format].suffix}"
        stated = load_export(path).metadata["int8"]
        assert (stated["ranges"], stated["calibration_images"], stated["float_layers"]) == ("static", 3, [])
        assert list(stated["relative_error"])[0] == calibrated
        assert 0 < max(stated["relative_error"].values()) <= stated["tolerance"]
        assert set(stated) >= {"matched_boxes" if config == RETINANET else "top1_agreement"}
        assert int8_layers(path) >= layers
        capsys.readouterr()
        assert check_export.main([str(path), "--images", str(photos)]) == 0
        assert "3 of 3 images have the same" in capsys.readouterr().out


@pytest.mark.mm
@pytest.mark.slow
def test_a_detector_of_half_weights(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its boxes are those of the model, but for those whose scores are about the threshold."""
    tiny = shallow(RETINANET, tmp_path / "tiny.py", scale=(288, 160), keep_ratio=True)
    checkpoint = str(save_lively(tiny, tmp_path / "tiny.pth"))
    assert export.main([checkpoint, "--config", tiny, "--out", str(tmp_path), "--half", "--format", "onnx"]) == 0
    capsys.readouterr()
    assert check_export.main([str(tmp_path / "tiny_half.onnx"), "--images", str(photos)]) == 0
    assert "3 of 3 images have the same" in capsys.readouterr().out


@pytest.mark.mm
def test_a_backbone_keeps_its_layers_in_float() -> None:
    """And those alone, wherever their name is found."""
    module = Segmentation(network("test_transnext", segmentation_base("test_transnext")))
    named = [name for name, _ in module.named_modules() if _within(f"{name}/Conv", module.int8_float_layers)]
    expected = [name for name, _ in module.named_modules() if ".pos_bias" in name]
    assert named == expected and named
    assert not _within("head.pos_bias/Conv", module.int8_float_layers)
    assert _within(f"model.{named[0]}/Conv", module.int8_float_layers)  # of a file that rescales


def test_images_of_several_sizes_are_calibrated_by_size() -> None:
    images = [torch.full((3, 32, width), float(i)) for i, width in enumerate((40, 48, 40, 40))]
    assert [x.shape for x in _batches(images, None)] == [(1, 3, 32, 40)] * 3 + [(1, 3, 32, 48)]
    pairs = [x[:, 0, 0, 0].tolist() for x in _batches(images, 2)]
    assert pairs == [[0, 2], [3, 0], [1, 1]]  # what is missing in a batch is filled with images of the size


@pytest.mark.slow
def test_a_denoiser_by_name(tmp_path: Path) -> None:
    arguments = ["test_ptdit", "--random-weights", "--format", "pt2", "--out", str(tmp_path)]
    assert export.main([*arguments, "--size", "16x32"]) == 0
    runtime = load_export(tmp_path / "test_ptdit.pt2")
    assert runtime.metadata["input_size"] == [4, 16, 32]
    assert runtime.metadata["dynamic"] == [] and list(runtime.metadata["differences"]) == ["1 x 16 x 32"]
    (out,) = runtime(torch.randn(1, 4, 16, 32), torch.tensor([500.0]), torch.tensor([3]))
    assert out.shape == (1, 4, 16, 32) and out.std() > 0
    with pytest.raises(SystemExit, match="takes latents, not images"):
        check_export.main([str(tmp_path / "test_ptdit.pt2"), "--images", str(ROOT / "docs/ptdit-cost.png")])


@pytest.mark.mm
def test_what_is_refused_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli.test_predict import save_untrained

    monkeypatch.chdir(tmp_path)
    mask_rcnn, fpn = (save_untrained(config, Path(f"{i}.pth")) for i, config in enumerate((MASK_RCNN, SEGMENTATION)))
    for arguments, message in (
        (
            [mask_rcnn, "--config", MASK_RCNN],
            "MaskRCNN, which pools regions whose number depends on the image: of",
        ),
        (
            ["test_ptdit", "--random-weights", "--int8", "dynamic"],
            "int8 files are of classifiers, segmentation models and detectors, not for generation: leave --int8 out",
        ),
        ([fpn, "--config", RETINANET], "does not fit the config: missing"),
        ([fpn, "--config", SEGMENTATION, "--img-size", "16"], "16 x 16 pixels are below 32 x 32"),
        (["test_ptdit", "--random-weights", "--size", "dynamic"], "fixed size: write --size 16x16"),
        (["test_ptdit", "--random-weights", "--batch", "dynamic"], "fixed batch: write --batch 1"),
        (["test_ptdit", "--random-weights", "--size", "15x16"], "multiples of 2, got 15 x 16"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}") as caught:
            export.main([*map(str, arguments), "--format", "pt2"])
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pth", "1.pth"]


def test_the_page_has_the_table_of_the_cases(capsys: pytest.CaptureFixture) -> None:
    assert export_page.main(["--check"]) == 0, capsys.readouterr().err
    stale = export_page.replaced(export_page.PAGE.read_text(), "another")
    assert stale != export_page.PAGE.read_text() and "another" in stale
