"""int8: files whose convolutions and linear layers compute in eight bits, each quantised by its format's own tool.

========  =====================================  ==========================================================
format    static                                 dynamic
========  =====================================  ==========================================================
onnx      ONNX Runtime's ``quantize_static``     ``quantize_dynamic``: linear layers
openvino  NNCF's ``quantize``                    NNCF's ``compress_weights``: weights, activations stay float
pt2       torchao's PT2E with the quantizer for  the same, linear layers
          x86
========  =====================================  ==========================================================

Weights have a scale for each output channel. Static: each activation has one range, which calibration images give.
Dynamic: the range is found while the file runs, and no images are needed. Layers that a family keeps in float are its
``int8_float_layers``; products of two activations (attention) stay float everywhere.

CPUs without VNNI (before AVX-512 VNNI or AVX-VNNI) add two products in 16 bits, which the full range of weights
overflows: a quarter of the logits' deviation. So weights of ONNX and OpenVINO files use half of it, on every CPU.
"""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.deploy.dense import DensePreprocessing
from backbones.deploy.metadata import Preprocessing
from backbones.deploy.programs import capture, load_program, quiet, run_program, save_program
from backbones.deploy.runtimes import ONNXRuntime
from backbones.images import find_bad_images, list_images, map_files, read_image
from backbones.kernels.int8 import is_within

__all__ = ["DYNAMIC", "calibration_images", "quantize", "require_quantizer"]

DYNAMIC = "dynamic"
CALIBRATION_IMAGES = 128
TOOLS = {"onnx": "onnxruntime", "openvino": "nncf", "pt2": "torchao"}
OPERATORS = ["Conv", "Gemm", "MatMul"]  # of ONNX


def calibration_images(
    source: str | os.PathLike,
    preprocessing: Preprocessing | DensePreprocessing,
    *,
    rescale: bool = False,
    limit: int = CALIBRATION_IMAGES,
) -> list[Tensor]:
    """Images (C, H, W) as a file takes them, to find the ranges of activations.

    Args:
        source: Folder with all folders below it, image file or glob pattern; like those that are to come.
        preprocessing: The file's.
        rescale: Whether the file takes pixels from 0 to 255.
        limit: Images that are read at most, at equal distances in the order of their names.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If ``limit`` is below 1, or one of the images cannot be read.
    """
    if limit < 1:
        raise ValueError(f"calibration needs one image or more, not {limit}")
    files = list_images(source)
    chosen = [files[int(i)] for i in np.linspace(0, len(files) - 1, min(limit, len(files))).round()]
    if bad := find_bad_images(chosen, progress="checking images"):
        file, reason = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} of {len(chosen)} calibration images cannot be read, repair or remove them: {file} ({reason})"
        )
    transform = preprocessing.transform(rescale=not rescale)
    read = map_files(lambda file: transform(read_image(file)), chosen, progress="calibration images")
    return list(read.values())


def require_quantizer(format: str) -> None:
    """Check that a format's quantiser is installed.

    Raises:
        ValueError: If it is missing, with the command that installs it.
    """
    try:
        importlib.import_module(TOOLS[format])
    except ImportError as error:
        raise ValueError(
            f"int8 {format} files need {TOOLS[format]}: pip install 'efficient-backbones[export]'"
        ) from error


def quantize(
    format: str,
    source: Path,
    target: Path,
    batches: Sequence[Tensor] | None,
    float_layers: Sequence[str] = (),
    dynamic: tuple[int, ...] = (),
    min_side: int = 32,
) -> None:
    """Write the int8 form of a float file that ``export`` has written.

    Args:
        format: Of both files.
        source: The float file.
        target: The int8 file.
        batches: Calibration images (B, C, H, W); None for ranges that are found while the file runs.
        float_layers: Patterns (``"stages.*.attn.proj"``) of modules that stay float.
        dynamic: Dimensions that are open, and the least side where height and width are: as ``capture`` takes them.
    """
    with quiet():
        QUANTIZERS[format](source, target, batches, float_layers, dynamic, min_side)


def quantizer_version(format: str) -> str:
    """Name and version of the tool."""
    return f"{TOOLS[format]} {importlib.import_module(TOOLS[format]).__version__}"


def _onnx(
    source: Path,
    target: Path,
    batches: Sequence[Tensor] | None,
    float_layers: Sequence[str],
    dynamic: tuple[int, ...],
    min_side: int,
) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str, batches: Iterable[Tensor]) -> None:
            self.feeds = ({name: x.numpy()} for x in batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared = Path(folder, target.name)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # which knows no open sizes
        graph = onnx.load(prepared).graph
        ranks = {initializer.name: len(initializer.dims) for initializer in graph.initializer}
        kept = [
            node.name
            for node in graph.node
            if node.op_type in OPERATORS
            and (not _is_layer(node.op_type, ranks.get(node.input[1])) or _within(node.name, float_layers))
        ]
        options: dict[str, Any] = {
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            "reduce_range": True,  # half of that of weights, see above
            "nodes_to_exclude": kept,
        }
        if batches is None:  # integer convolutions would be slower than those of floats
            options["nodes_to_exclude"] = [*kept, *(f"{name}_MatMul" for name in kept)]  # as it renames Gemm
            quantize_dynamic(prepared, target, op_types_to_quantize=["Gemm", "MatMul"], **options)
        else:
            reader = Reader(graph.input[0].name, batches)
            options |= {"activation_type": QuantType.QUInt8, "op_types_to_quantize": OPERATORS}
            quantize_static(prepared, target, reader, **options)
    ONNXRuntime.annotate(target, {})  # instead of the quantiser's notes


def _openvino(
    source: Path,
    target: Path,
    batches: Sequence[Tensor] | None,
    float_layers: Sequence[str],
    dynamic: tuple[int, ...],
    min_side: int,
) -> None:
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = openvino.Core().read_model(source)
    kept = []
    for op in model.get_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        weight = op.input_value(1).get_node() if op.get_input_size() > 1 else None
        rank = len(weight.get_output_shape(0)) if weight and weight.get_type_name() == "Constant" else None
        if kind != "Constant" and (not _is_layer(kind, rank) or _within(name, float_layers)):
            kept.append(name)
    scope = nncf.IgnoredScope(names=kept, validate=False)
    if batches is None:
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
    else:
        _give_biases(model)
        model = nncf.quantize(
            model,
            nncf.Dataset([x.numpy() for x in batches]),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,  # activations with a zero point: those after GELU have few negatives
            ignored_scope=scope,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # over all images; the default, the mean of the batches' ranges, cuts off what is large in one of few
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                # SmoothQuant of channels is for language models: it multiplies VAN's error by ten
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
                overflow_fix=nncf.OverflowFix.ENABLE,  # half the range of weights, see above
            ),
        )
    openvino.save_model(model, target, compress_to_fp16=False)


def _give_biases(model: Any) -> None:
    """Add nearly nothing to what convolutions without bias compute.

    OpenVINO 2026.4 computes such a one between two others wrongly in eight bits, at least on CPUs with AVX2: an
    untrained Semantic FPN was 17 % off instead of 4. Biases of zeros it takes away by itself.
    """
    from openvino import opset13

    for op in model.get_ops():
        if op.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        inputs = op.output(0).get_target_inputs()
        added = [
            value.get_node().data
            for user in inputs
            if user.get_node().get_type_name() == "Add"
            for value in user.get_node().input_values()
            if value.get_node().get_type_name() == "Constant"
        ]
        if any(value.any() for value in added):
            continue
        channels = op.get_output_partial_shape(0)[1].get_length()
        shape = 1, channels, *[1] * (len(op.get_output_partial_shape(0)) - 2)
        biased = opset13.add(op, opset13.constant(np.full(shape, 1e-12, np.float32)))
        for user in inputs:
            user.replace_source_output(biased.output(0))
    model.validate_nodes_and_infer_types()


def _pt2(
    source: Path,
    target: Path,
    batches: Sequence[Tensor] | None,
    float_layers: Sequence[str],
    dynamic: tuple[int, ...],
    min_side: int,
) -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    program = load_program(source)
    example = program.example_inputs[0]
    module: Any = run_program(program)
    _tell_calls_apart(module)
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(is_dynamic=batches is None))
    stacks = [node.meta.get("nn_module_stack", {}).values() for node in module.graph.nodes]
    for name in sorted({path for stack in stacks for path, _ in stack}):
        if _within(name, float_layers):
            quantizer.set_module_name_qconfig(name, None)
    with torch.no_grad():
        prepared = prepare_pt2e(module, quantizer)
        for x in batches if batches is not None else [example[0]]:
            prepared(x)
        _hide_batch_norms(prepared)
        quantised = convert_pt2e(prepared)
    save_program(capture(quantised, example, dynamic, min_side), target)


def _tell_calls_apart(module: torch.fx.GraphModule) -> None:
    """Name the calls of a module by their number, where there are several: RetinaNet's head is called on each level.

    torchao takes all operators of a name for one, and refuses a convolution of more than one output.
    """
    for node in module.graph.nodes:  # the second call is "L__self__head.conv@1": ("head.conv", its type)
        stack = node.meta.get("nn_module_stack", {})
        calls = {key: (path + "".join(key.partition("@")[1:]), kind) for key, (path, kind) in stack.items()}
        node.meta["nn_module_stack"] = calls


def _batch_norm(*args: Any) -> Tensor:
    return torch.ops.aten.batch_norm.default(*args)


def _hide_batch_norms(prepared: torch.fx.GraphModule) -> None:
    """Call the batch norms that ``prepare_pt2e`` could not fold by a name that ``convert_pt2e`` does not know.

    It would take them for those of training in eight bits, and compile a hundred patterns of that for most of a minute
    to find none. Values are the same, and so is the operator once the program is captured again.
    """
    for node in prepared.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default:
            node.target = _batch_norm
    prepared.recompile()


QUANTIZERS: dict[str, Callable[..., None]] = {"onnx": _onnx, "openvino": _openvino, "pt2": _pt2}


def _is_layer(kind: str, rank: int | None) -> bool:
    """Whether an operator is a convolution or linear layer.

    Args:
        kind: "Conv", "GroupConvolution", "Gemm", "MatMul", ...
        rank: Dimensions of its second input; None if that is computed. A matrix for each head is no linear layer.
    """
    return "Conv" in kind or (kind in ("Gemm", "MatMul") and rank == 2)


def _within(name: str, patterns: Sequence[str]) -> bool:
    """Whether an operator ("blocks.1.attn.proj/MatMul_7", "head.conv@1") is in a module that a pattern names."""
    return is_within(name.partition("/")[0].partition("@")[0], patterns)
