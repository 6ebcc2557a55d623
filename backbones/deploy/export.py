"""Writing a file: under a temporary name, loaded again, compared with the model, and only then under its own."""

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.deploy.agreement import INT8_TOLERANCE, Agreement, ScoreAgreement
from backbones.deploy.dense import DensePreprocessing
from backbones.deploy.metadata import PIXELS, Preprocessing, Rescaled, weights_hash
from backbones.deploy.programs import DIMENSIONS, capture, first_line, tensors
from backbones.deploy.quantization import DYNAMIC, quantize, quantizer_version, require_quantizer
from backbones.deploy.runtimes import FORMATS, OPSET

__all__ = ["ExportError", "export"]

TOLERANCE = 1e-4  # of the spread of an output: its largest entry minus its smallest
HALF_TOLERANCE = 2e-2
MIN_SIDE = 32
CALIBRATION_BATCH = 8
Inputs = Callable[[int, int, int], tuple[Tensor, ...]]
Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], float]


class ExportError(ValueError):
    """A model that cannot be exported as asked, or whose file does not compute what the model does."""


def export(
    model: nn.Module,
    out: str | os.PathLike,
    name: str,
    formats: Sequence[str] = ("onnx",),
    *,
    img_size: tuple[int, int] = (224, 224),
    batch: int | None = None,
    dynamic_size: bool = True,
    preprocessing: Preprocessing | DensePreprocessing | None = None,
    rescale: bool = False,
    half: bool = False,
    int8: Tensor | Sequence[Tensor] | str | None = None,
    opset: int = OPSET,
    inputs: Inputs | None = None,
    compare: Compare | None = None,
    agreement: type[Agreement] = ScoreAgreement,
    metadata: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write a model as files for other runtimes, compare them with it, and name them only if they agree.

    Args:
        model: Images (B, C, H, W) to a tensor or a tuple of tensors; it is set to evaluation mode.
        out: Folder; made if it is missing.
        name: Of the files, without their endings.
        formats: Of ``FORMATS``: "onnx", "openvino", "pt2".
        img_size: Height and width of the example.
        batch: Images of a batch; None leaves it open.
        dynamic_size: Leave height and width open.
        preprocessing: What the file says of its input; a file of a fixed size says that size.
        rescale: Let the file take pixels from 0 to 255 and subtract the mean and divide by the deviation itself.
        half: Store weights as float16.
        int8: Compute in eight bits: calibration images as the file takes them (``calibration_images``), (n, C, H, W) of
            the example's size or (C, H, W) each of its own, or "dynamic" for ranges of activations that are found
            while the file runs.
        opset: Of ONNX.
        inputs: (batch, height, width) -> arguments of the model, where these are other than an image.
        compare: (expected outputs, those of a file) -> difference; None for ``difference``.
        agreement: What int8 files are compared by, and half ones of a model that has a ``compare`` of its own.
        metadata: More for the file to say: JSON by name.
        report: Is given a line for each comparison.

    Returns:
        A file for each format. Its metadata has the differences that were found.

    Raises:
        ExportError: If something that was asked for does not exist, the folder cannot be written, a package is missing,
            the model does not take a size that is to be open, the exporter fails, or a file's outputs differ from the
            model's by more than ``TOLERANCE`` of their spread (``HALF_TOLERANCE``, the model's ``export_tolerance``),
            or int8 ones by more than the ``agreement`` allows. Nothing is left in the folder.
    """
    formats = [formats] if isinstance(formats, str) else list(formats)
    _check_request(model, name, formats, img_size, batch, half, opset, inputs)
    if rescale and preprocessing is None:
        raise ExportError("rescaling inside the file needs the mean and the deviation of a preprocessing")
    if int8 is not None:
        if inputs is not None:
            raise ExportError("int8 files are of models that take images alone: export without int8")
        _check_int8(int8, half, batch, img_size, dynamic_size)
    _require(formats, int8 is not None)

    model = model.eval()
    whole = model
    if rescale and preprocessing:
        whole = Rescaled(model, preprocessing.mean, preprocessing.std).eval()
    dynamic = ((0,) if batch is None else ()) + ((2, 3) if dynamic_size else ())
    stated: dict[str, Any] = {
        "name": name,
        "weights_sha256": weights_hash(model),
        "torch": torch.__version__,
        "dynamic": [DIMENSIONS[d] for d in dynamic],
        "batch": batch,
        "half": half,
        **(metadata or {}),
    }
    if preprocessing:
        stated |= {**asdict(preprocessing), "input": PIXELS if rescale else "rescaled by mean and std"}
    if "input_size" in stated and not dynamic_size:  # whatever the model's own size is
        stated["input_size"] = (stated["input_size"][0], *img_size)
        stated |= {"keep_ratio": False} if "keep_ratio" in stated else {}
    generator = torch.Generator().manual_seed(0)

    def images(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        channels = preprocessing.input_size[0] if preprocessing else 3
        x = torch.randn(batch, channels, height, width, generator=generator)
        return (255 * torch.rand(x.shape, generator=generator) if rescale else x,)

    samples = [(inputs or images)(*sizes) for sizes in _sizes(img_size, batch, dynamic_size)]
    remedies = ["", *["; export it for a fixed size" if dynamic_size else ""] * (len(samples) - 1)]
    expected = [_outputs(whole, name, *pair) for pair in zip(samples, remedies, strict=True)]
    limit = HALF_TOLERANCE if half else getattr(model, "export_tolerance", TOLERANCE)
    if half and compare:  # which box stays of those that overlap by about the limit is a matter of more than rounding
        compare = partial(_disagreement, agreement)

    with _staged(Path(out)) as staging:
        folder = staging
        if int8 is not None:
            folder = staging / "float"
            folder.mkdir()
        try:
            program = capture(whole, samples[0], dynamic, MIN_SIDE)
        except Exception as error:  # of many types
            raise ExportError(f"{name} cannot be exported: {first_line(error)}") from error
        written = []
        for format in sorted(formats, key=list(FORMATS).index):  # OpenVINO reads what ONNX wrote
            runtime = FORMATS[format]
            path = folder / (name + runtime.suffix)
            try:
                runtime.write(program, path, opset, dynamic, half)
                found = [loaded(*sample) for loaded in [runtime(path)] for sample in samples]
            except Exception as error:  # of many types
                remedy = f" (opset {OPSET} is the one that is tested)" if opset != OPSET and format != "pt2" else ""
                raise ExportError(f"{name} cannot be exported to {format}: {first_line(error)}{remedy}") from error
            differences = {}
            for sample, y, z in zip(samples, expected, found, strict=True):
                size = _described(sample)
                differences[size] = worst = (compare or difference)(y, z)
                report(f"{format}: {size} differs by {worst:.1e} of the outputs' spread")
                if not worst <= limit:
                    raise ExportError(
                        f"{name} as {format} differs from the model by {worst:.1e} of its outputs' spread for a batch "
                        f"of {size} pixels, more than {limit:.0e}: no file was written"
                    )
            content = stated | {"differences": differences}
            if int8 is not None:
                source, path = path, staging / path.name
                content |= _write_int8(
                    format, source, path, whole, int8, samples, batch, dynamic, compare or difference, agreement, report
                )
            written.append((runtime, path, content))
        if int8 is not None:
            shutil.rmtree(folder)
        for runtime, path, content in written:
            try:
                runtime.annotate(path, content, program if int8 is None else None)
            except Exception as error:  # of many types
                raise ExportError(f"{path.name} cannot be written to {str(out)!r}: {first_line(error)}") from error
        return _name_files(staging, Path(out), [path for _, path, _ in written])


def _check_request(
    model: nn.Module,
    name: str,
    formats: Sequence[str],
    img_size: tuple[int, int],
    batch: int | None,
    half: bool,
    opset: int,
    inputs: Inputs | None,
) -> None:
    if not formats:
        raise ExportError(f"name one format or more: {', '.join(FORMATS)}")
    for format in formats:
        if format not in FORMATS:
            raise ExportError(f"format {format!r} is none of {', '.join(FORMATS)}")
    if half and "pt2" in formats:
        raise ExportError("pt2 files have no half weights: export the format onnx or openvino with half")
    if not name or name != os.path.basename(name):
        raise ExportError(f"{name!r} is no name of a file: its folder is `out`")
    if isinstance(img_size, int) or len(img_size) != 2:
        raise ExportError(f"img_size is height and width, as (224, 224), not {img_size}")
    if inputs is None and min(img_size) < MIN_SIDE:
        raise ExportError(f"images of {img_size[0]} x {img_size[1]} pixels are below {MIN_SIDE} x {MIN_SIDE}")
    if batch is not None and batch < 1:
        raise ExportError(f"a batch has one image or more, not {batch}")
    types = {str(p.dtype) for p in model.parameters() if p.is_floating_point()} - {"torch.float32"}
    if types:
        raise ExportError(f"weights are {' and '.join(sorted(types))}: export the model in float32, as model.float()")
    if set(formats) - {"pt2"}:
        _check_opset(opset)


def _require(formats: Sequence[str], int8: bool) -> None:
    try:
        for format in formats:
            FORMATS[format].require()
            if int8:
                require_quantizer(format)
    except ValueError as error:
        raise ExportError(str(error)) from error


def _outputs(model: nn.Module, name: str, sample: tuple[Tensor, ...], remedy: str) -> tuple[Tensor, ...]:
    """What the model itself computes."""
    try:
        with torch.no_grad():
            output = model(*sample)
    except Exception as error:  # of many types
        raise ExportError(f"{name} does not take {_described(sample)} pixels: {first_line(error)}{remedy}") from error
    if not all(isinstance(y, Tensor) for y in (output if isinstance(output, tuple | list) else [output])):
        raise ExportError(f"{name} returns {type(output).__name__}, not a tensor or a tuple of tensors: wrap it")
    return tensors(output)


def _described(sample: tuple[Tensor, ...]) -> str:
    """Batch, height and width."""
    return " x ".join(str(n) for i, n in enumerate(sample[0].shape) if i != 1)


def _sizes(img_size: tuple[int, int], batch: int | None, dynamic_size: bool) -> list[tuple[int, int, int]]:
    """Batch, height and width of what is compared: the example, and where sizes are open a rectangle and odd sides."""
    height, width = img_size
    sizes = [img_size]
    if dynamic_size:
        sizes += [(height + 37, max(width - 19, MIN_SIDE)), (max(height // 2, MIN_SIDE) + 1, width + 64)]
    batches = [2, 1, 3] if batch is None else [batch] * 3
    if len(sizes) == 1 and batch is None:
        sizes = sizes * 3
    return [(b, *size) for b, size in zip(batches, sizes, strict=False)]


def _write_int8(
    format: str,
    source: Path,
    path: Path,
    whole: nn.Module,
    images: Tensor | Sequence[Tensor] | str,
    samples: Sequence[tuple[Tensor, ...]],
    batch: int | None,
    dynamic: tuple[int, ...],
    compare: Compare,
    agreement: type[Agreement],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write ``path`` from a float file, compare it with the model, and return what its metadata says of that.

    Raises:
        ExportError: If the quantiser fails, or the file is not as near as ``agreement`` asks.
    """
    model = whole.model if isinstance(whole, Rescaled) else whole
    float_layers = tuple(getattr(model, "int8_float_layers", ()))
    batches, trials = None, [x for x, *_ in samples]
    if not isinstance(images, str):
        batches = _batches(images, batch)
        trials = [_resampled(images, x.shape) for x in trials[1:]]
    groups: dict[object, list[Tensor]] = {}  # by size, but for calibration images of several
    several = len({x.shape[2:] for x in batches or ()}) > 1
    for x in batches or ():
        groups.setdefault("several" if several else x.shape[2:], []).append(x)
    for x in trials:
        groups.setdefault(x.shape[2:], []).append(x)
    differences: dict[str, float] = {}
    values: dict[str, dict[str, float]] = {}
    try:
        quantize(format, source, path, batches, float_layers, dynamic, MIN_SIDE)
        runtime = FORMATS[format](path)
    except Exception as error:  # of many types
        raise ExportError(f"{path.stem} cannot be quantised for {format}: {first_line(error)}") from error
    for group in groups.values():
        key = f"{sum(map(len, group))} x {_sides(group, 2)} x {_sides(group, 3)}"
        near, worst = agreement(), 0.0
        for x in group:  # one at a time: maps of many images are large
            with torch.no_grad():
                expected = tensors(whole(x))
            try:
                found = runtime(x)
            except Exception as error:  # of many types
                raise ExportError(f"{path.stem} as int8 {format} does not run: {first_line(error)}") from error
            near.add(expected, found)
            worst = max(worst, compare(expected, found))
        differences[key] = worst
        for name, value in near.values.items():
            values.setdefault(name, {})[key] = value
        report(f"{format}: int8 {key} {near}")
        if near.excess:
            remedy = "try --int8 dynamic" if batches else "export it without --int8"
            raise ExportError(
                f"{path.stem} as int8 {format} differs from the model for {key} pixels by {near.excess}: no file was "
                f"written; {remedy}"
            )
    return {
        "differences": differences,
        "int8": {
            "ranges": "dynamic" if batches is None else "static",
            "calibration_images": min(len(images), sum(map(len, batches))) if batches else 0,
            "quantizer": quantizer_version(format),
            "float_layers": list(float_layers),
            **values,
            "tolerance": INT8_TOLERANCE,
        },
    }


def _batches(images: Tensor | Sequence[Tensor], batch: int | None) -> list[Tensor]:
    """Calibration images (B, C, H, W)."""
    if isinstance(images, Tensor):
        return [x for x in images.split(batch or CALIBRATION_BATCH) if batch is None or len(x) == batch]
    by_size: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        by_size.setdefault(image.shape, []).append(image)
    n = batch or 1  # where it is open, as little memory as can be: such images are large
    starts = [(same, i) for same in by_size.values() for i in range(0, len(same), n)]
    return [torch.stack([same[(i + j) % len(same)] for j in range(n)]) for same, i in starts]


def _resampled(images: Tensor | Sequence[Tensor], shape: torch.Size) -> Tensor:
    """The first images at another size."""
    chosen = [images[i % len(images)][None] for i in range(shape[0])]
    return torch.cat([nn.functional.interpolate(image, shape[2:], mode="bilinear") for image in chosen])


def _sides(batches: Sequence[Tensor], dimension: int) -> str:
    """Height or width, from the least to the largest."""
    sides = [x.shape[dimension] for x in batches]
    return f"{min(sides)}" if min(sides) == max(sides) else f"{min(sides)}-{max(sides)}"


def _check_int8(
    int8: Tensor | Sequence[Tensor] | str, half: bool, batch: int | None, img_size: tuple[int, int], dynamic_size: bool
) -> None:
    if half:
        raise ExportError("weights are float16 or eight bits, not both: choose --half or --int8")
    if isinstance(int8, str):
        if int8 != DYNAMIC:
            raise ExportError(f"int8 is {DYNAMIC!r} or calibration images, not {int8!r}")
        return
    least = (batch or 1) if isinstance(int8, Tensor) else 1
    if len(int8) < least:
        raise ExportError(f"a batch of {least} images is calibrated with as many or more, not {len(int8)}")
    images: Sequence[Tensor] = int8.unbind() if isinstance(int8, Tensor) else int8
    for image in images:
        height, width = image.shape[1:]
        if (isinstance(int8, Tensor) or not dynamic_size) and (height, width) != tuple(img_size):
            raise ExportError(f"calibration images are {height} x {width}, not {img_size[0]} x {img_size[1]}")
        if min(height, width) < MIN_SIDE:
            raise ExportError(f"a calibration image of {height} x {width} pixels is below {MIN_SIDE} x {MIN_SIDE}")


def _disagreement(agreement: type[Agreement], expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    near = agreement()
    near.add(expected, found)
    return near.relative_error


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest difference of outputs, as a share of the spread of each; infinite where shapes differ."""
    if [y.shape for y in expected] != [y.shape for y in found]:
        return math.inf
    worst = 0.0
    for y, z in zip(expected, found, strict=True):
        if y.numel():
            y, z = y.double(), z.double()
            share = (y - z).abs().max().item() / ((y.max() - y.min()).item() or 1.0)
            worst = max(worst, math.inf if math.isnan(share) else share)
    return worst


def _check_opset(opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if not OPSET <= opset <= onnx_opset_version():
        raise ExportError(f"ONNX opset {opset} cannot be written: choose one from {OPSET} to {onnx_opset_version()}")


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder inside the one that files go to, which is gone afterwards whatever happens."""
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        raise ExportError(f"cannot write to {str(out)!r} ({error.strerror}): name another folder with --out") from error
    finally:
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _name_files(staging: Path, out: Path, last: list[Path]) -> list[Path]:
    """Move files to their folder; those that are opened come last, when all that they need is there."""
    for file in sorted(staging.iterdir(), key=lambda file: file in last):
        os.replace(file, out / file.name)
    return [out / path.name for path in last]
