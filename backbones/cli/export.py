"""Export a model for another runtime: ONNX Runtime, OpenVINO or a program of torch.export.

Classifiers, semantic segmentation models, RetinaNet, and one denoising step of PT-DiT:

    backbones export van_b0.in1k --format onnx --out exported
    backbones export CHECKPOINT --model van_b0 --format pt2 --size 224x224
    backbones export work_dirs/NAME/epoch_20.pth --config CONFIG --format openvino --half
    backbones export van_b0.in1k --int8 photos/
    backbones export ptdit_s_class --random-weights --size 32x32

The file says how images are prepared for it, and is compared with the model before it gets its name; docs/export.md has
the rest. `backbones check-export FILE --images DIR` runs it on images.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import nn

import backbones
from backbones.cli.common import check_model, output_folder, parse_img_size, positive_int
from backbones.deploy import FORMATS, DensePreprocessing, ExportError, Preprocessing, export
from backbones.deploy.agreement import BoxAgreement
from backbones.deploy.dense import Detector, Segmentation, denoiser, detection_difference
from backbones.deploy.quantization import CALIBRATION_IMAGES, DYNAMIC, calibration_images
from backbones.deploy.runtimes import OPSET
from backbones.weights import DownloadError, convert_checkpoint, load_checkpoint

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")


@dataclass
class Source:
    """What is exported: a model, and what its file says of it."""

    model: nn.Module
    name: str
    origin: dict[str, Any]  # keyword arguments of ``load_source`` that give it again
    preprocessing: Preprocessing | DensePreprocessing | None
    classes: list[str]
    license: str = ""
    task: str = "classification"
    img_size: tuple[int, int] = (224, 224)  # of the example where none is asked for
    fixed: Sequence[str] = ()  # of "batch" and "size", what the file cannot leave open
    options: dict[str, Any] = field(default_factory=dict)  # more for ``backbones.deploy.export``
    more: dict[str, Any] = field(default_factory=dict)  # that its file says
    trained: Any = None  # of a config: the whole of it

    def metadata(self) -> dict[str, Any]:
        """As ``backbones.deploy.export`` takes it."""
        return {
            **self.more,
            "task": self.task,
            "classes": self.classes,
            "license": self.license,
            "source": self.origin,
            "backbones": backbones.__version__,
        }


def load_source(source: str, model: str | None = None, config: str | None = None, random: bool = False) -> Source:
    """The model that a command line names.

    Args:
        source: A registered model, with a tag or without, or a checkpoint file.
        model: The model that a checkpoint is of.
        config: The config that a checkpoint was trained with.
        random: Weights drawn with seed 0 instead of published ones.

    Raises:
        ValueError, OSError: If there is no such model or file, or the file is of another model.
    """
    origin = {"source": source, "model": model, "config": config, "random": random}
    origin = {key: value for key, value in origin.items() if value}
    if model and config:
        raise ValueError(f"{source} is of --model {model} or was trained with --config {config}: name one of them")
    if not Path(source).is_file():
        if model or config or Path(source).exists() or Path(source).suffix in CHECKPOINT_SUFFIXES:
            raise ValueError(f"there is no checkpoint at {source!r}")
        if ":" in source:
            raise ValueError(f"{source} is no model of this package: export it by backbones.deploy.export(model, ...)")
        check_model(source)
        return _named(source, origin, pretrained=not random)
    if config:
        return _trained(source, config, origin)
    if not model:
        raise ValueError(f"say what {source} is a checkpoint of: --model NAME, or the --config that trained it")
    check_model(model)
    found = _named(model, origin, pretrained=False, checkpoint=source)
    found.name = name_of(source)
    return found


def name_of(checkpoint: str) -> str:
    """The name of files that are made of a checkpoint: ``run.v1`` of ``a/run.v1.pth``."""
    return Path(checkpoint).stem.removesuffix(".pth")  # of .pth.tar


def _named(name: str, origin: dict[str, Any], pretrained: bool, checkpoint: str | None = None) -> Source:
    if name.split(".")[0] not in backbones.list_models():
        raise ValueError(f"{name} is timm's own model; `backbones export` takes those that backbones.list_models() has")
    options: dict[str, Any] = {"dynamic_img_size": True}
    torch.manual_seed(0)
    if checkpoint:
        weights = load_checkpoint(checkpoint)
        bare = backbones.create_model(name, device="meta")
        classifier = convert_checkpoint(weights, bare).weights.get(f"{bare.pretrained_cfg['classifier']}.weight")
        if classifier is not None:
            options["num_classes"] = len(classifier)
        model = backbones.create_model(name, **options)
        conversion = convert_checkpoint(weights, model)
        conversion.fit.require(checkpoint, name, most=3)
        model.load_state_dict(conversion.weights)
    else:
        try:
            model = backbones.create_model(name, pretrained=pretrained, **options)
        except RuntimeError as error:  # timm's, where a name has no weights
            raise ValueError(
                f"{name} has no published weights: give a checkpoint of it, or --random-weights to try an export"
            ) from error
    license = model.pretrained_cfg.get("license") or ""
    if model.task == "generation":
        return _denoiser(model, name, origin, license, random=not pretrained and not checkpoint)
    if "num_classes" not in options and not getattr(model, "num_classes", 0):
        raise ValueError(f"the weights of {name} have no classifier: export a model that was trained further")
    subset = infer_imagenet_subset(model)
    names = ImageNetInfo(subset).label_descriptions() if subset and not checkpoint else None
    classes = names or [str(i) for i in range(model.num_classes)]
    preprocessing = Preprocessing.of_config(resolve_data_config(model=model))
    size = preprocessing.input_size[1:]
    return Source(model.eval(), name, origin, preprocessing, classes, license, img_size=size)


def _denoiser(model: Any, name: str, origin: dict[str, Any], license: str, random: bool) -> Source:
    """One denoising step of a model that draws images."""
    if random:  # training begins with layers of zeros, through which nothing would be compared
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    step = denoiser(model)
    input_size = model.pretrained_cfg["input_size"]
    return Source(
        step,
        name,
        origin,
        None,
        [],
        license,
        "generation",
        img_size=input_size[1:],
        fixed=("batch", "size"),
        options={"inputs": step.inputs},
        more={"input": "latents", "input_size": input_size},
    )


REFUSED = {
    "MaskRCNN": "pools regions whose number depends on the image",
    "Mask2FormerHead": "samples through an operator of mmcv",
}


def _trained(checkpoint: str, config: str, origin: dict[str, Any]) -> Source:
    """A classifier, semantic segmentation model or RetinaNet that ``backbones train`` has trained."""
    from backbones.cli.predict import load_mm
    from backbones.mm.preprocessing import preprocessing_of

    trained = load_mm(config, checkpoint, "cpu")
    kind = type(trained.net).__name__
    backbone: Any = getattr(trained.net, "backbone", None)
    is_classifier = trained.is_classifier and getattr(backbone, "out_indices", ()) is None
    decoder = type(getattr(trained.net, "decode_head", None)).__name__
    if decoder == "Mask2FormerHead":
        kind = decoder
    if not is_classifier and kind not in ("EncoderDecoder", "RetinaNet"):
        reason = f", which {REFUSED[kind]}" if kind in REFUSED else ""
        raise ValueError(
            f"{config} trains a {kind}{reason}: of configs, Semantic FPN and UPerNet, RetinaNet and classifiers whose "
            "backbone has out_indices=None are exported"
        )
    name = name_of(checkpoint)
    preprocessing: Any = preprocessing_of(trained.cfg, config)
    if not is_classifier:
        return _dense(trained, name, origin, preprocessing)
    model = backbone.model
    preprocessing = replace(preprocessing, input_size=(model.in_chans, *preprocessing.input_size[1:]))
    classes = list(trained.meta.get("classes") or map(str, range(model.num_classes)))
    return Source(model.eval(), name, origin, preprocessing, classes, img_size=preprocessing.input_size[1:])


def _dense(trained: Any, name: str, origin: dict[str, Any], preprocessing: DensePreprocessing) -> Source:
    is_detector = type(trained.net).__name__ == "RetinaNet"
    module: Any = (Detector if is_detector else Segmentation)(trained.net, preprocessing.size_divisor)
    size = preprocessing.input_size[1:]
    source = Source(
        module.eval(),
        name,
        origin,
        preprocessing,
        list(trained.meta.get("classes") or map(str, range(module.head.num_classes))),
        task="detection" if is_detector else "segmentation",
        img_size=(min(size), min(size)) if preprocessing.keep_ratio else size,
        trained=trained,
    )
    if is_detector:
        source.fixed = ("batch",)  # what remains of each image's boxes is another number
        source.options = {"compare": detection_difference, "agreement": BoxAgreement}
        source.more = {"outputs": ["boxes", "scores", "labels"], "score_threshold": module.score_threshold}
    return source


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``load_source`` but for the source itself."""
    parser.add_argument("--model", help="the model that a checkpoint is of")
    parser.add_argument("--config", help="the config that a checkpoint was trained with")
    parser.add_argument("--random-weights", action="store_true", help="weights drawn with seed 0, to try an export")


def _batch(text: str) -> int | str:
    if text == "dynamic":
        return text
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no batch: write dynamic, or a number of images")
    return int(text)


def _size(text: str) -> tuple[int, int] | str:
    return text if text == "dynamic" else parse_img_size(text)


def shapes(
    source: Source, batch: int | str | None, size: tuple[int, int] | str | None, example: tuple[int, int] | None
) -> dict[str, Any]:
    """What ``backbones.deploy.export`` is told of batch and size.

    Raises:
        ValueError: If something is to stay open that cannot.
    """
    height, width = source.img_size
    for name, wanted, default in (("batch", batch, 1), ("size", size, f"{height}x{width}")):
        if name in source.fixed and wanted == "dynamic":
            raise ValueError(f"a file for {source.task} has a fixed {name}: write --{name} {default}, the default")
    if isinstance(size, tuple):
        example, size = size, "fixed"
    return {
        "batch": batch if isinstance(batch, int) else 1 if "batch" in source.fixed else None,
        "dynamic_size": size != "fixed" and "size" not in source.fixed,
        "img_size": example or source.img_size,
    }


def calibration_preprocessing(source: Source, sizes: Mapping[str, Any]) -> Preprocessing | DensePreprocessing:
    """What images to calibrate with are prepared by: as the file will say, a classifier's at the example's size.

    Args:
        source: What takes images.
        sizes: As ``shapes`` returns them.
    """
    given = source.preprocessing
    assert given is not None
    size = given.input_size[0], *sizes["img_size"]
    if isinstance(given, Preprocessing):
        return replace(given, input_size=size)
    return given if sizes["dynamic_size"] else replace(given, input_size=size, keep_ratio=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="name or tag of a model, or a checkpoint file")
    add_source_arguments(parser)
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["onnx"], help="one or several; default: onnx")
    parser.add_argument("--img-size", type=parse_img_size, help="example, 224 or 256x192; default: the model's own")
    parser.add_argument("--batch", type=_batch, help="dynamic (the default where it can be), or a number of images")
    parser.add_argument("--size", type=_size, help="dynamic (the default where it can be), or height x width")
    parser.add_argument("--half", action="store_true", help="weights as float16")
    parser.add_argument(
        "--int8",
        metavar="IMAGES",
        help="compute in eight bits: folder, file or glob pattern of calibration images, or dynamic, which needs none",
    )
    parser.add_argument(
        "--int8-images",
        type=positive_int,
        default=CALIBRATION_IMAGES,
        metavar="N",
        help=f"calibration images at most; default: {CALIBRATION_IMAGES}",
    )
    parser.add_argument(
        "--rescale", action="store_true", help="the file takes pixels from 0 to 255, see docs/export.md"
    )
    parser.add_argument("--opset", type=int, default=OPSET, help=f"of ONNX; default: {OPSET}")
    parser.add_argument("--out", type=output_folder, default=Path("exported"), help="folder; default: exported")
    args = parser.parse_args(argv)

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        found = load_source(args.source, args.model, args.config, args.random_weights)
        sizes = shapes(found, args.batch, args.size, args.img_size)
        int8: Any = args.int8
        if int8 and found.preprocessing is None:
            kinds = "classifiers, segmentation models and detectors"
            raise ValueError(f"int8 files are of {kinds}, not for {found.task}: leave --int8 out")
        if int8 not in (None, DYNAMIC) and not args.half:
            prepared = calibration_preprocessing(found, sizes)
            int8 = calibration_images(int8, prepared, rescale=args.rescale, limit=args.int8_images)
            int8 = torch.stack(int8) if isinstance(prepared, Preprocessing) else int8
        paths = export(
            found.model,
            args.out,
            found.name + ("_half" if args.half else "_int8" if args.int8 else ""),
            args.format,
            **sizes,
            **found.options,
            preprocessing=found.preprocessing,
            rescale=args.rescale,
            half=args.half,
            int8=int8,
            opset=args.opset,
            metadata=found.metadata(),
            report=print,
        )
    except (ExportError, DownloadError, ValueError, OSError) as error:
        sys.exit(f"error: cannot export {args.source}: {error}")
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
