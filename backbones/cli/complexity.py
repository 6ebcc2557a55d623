"""Parameters and multiply-accumulates of models.

    backbones complexity van_b0 litv2_s
    backbones complexity litv2_s --img-size 384 --stages
    backbones complexity --all --csv complexity.csv
    backbones complexity van-b0_retinanet-fpn_8xb2-1x_coco --img-size 800x1280

Multiply-accumulates (MACs; papers often call them FLOPs) are counted by fvcore on a traced graph at batch 1, with
handles for what fvcore misses: fused attention, deformable convolution, `baddbmm`, broadcast products. As in fvcore,
normalisation counts (BatchNorm 2 an element, LayerNorm and GroupNorm 5, but RMSNorm nothing), element-wise operators,
softmax and pooling
do not. A published table that leaves norms out is therefore lower by 0.5 % or so.

The graph is traced on the meta device, so that no size of model costs memory or arithmetic.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, jit_analysis
from fvcore.nn.jit_handles import generic_activation_jit, get_shape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import backbones
from backbones.cli.common import (
    build_model,
    check_model,
    default_img_size,
    format_img_size,
    format_table,
    int_in,
    output_file,
    parse_img_size,
)
from backbones.configs import find_config
from backbones.files import whole_file
from backbones.layers.tables import constant_tables


@dataclass(frozen=True)
class Part:
    """One piece of a model, in the order of the forward pass: its output shape and what it costs."""

    name: str
    shape: tuple[int, ...] | None
    params: int
    macs: int


@dataclass(frozen=True)
class Complexity:
    """What `count` found, at batch 1.

    Attributes:
        params: all parameters. Buffers are left out.
        params_backbone: those outside the classifier.
        macs: multiply-accumulates of one image.
        macs_attention: those of them that are the products of fused attention.
        operators: `macs` by operator, as fvcore names them, with "attention" and "deform_conv".
        activations: values that convolutions, products and attention write; None unless asked for.
        unsupported: operators that were not counted and may cost, with how often each ran.
        parts: stem, stages, norm and head; the direct children of a model without stages.
    """

    params: int
    params_backbone: int
    macs: int
    macs_attention: int
    operators: dict[str, int]
    activations: int | None
    unsupported: dict[str, int]
    parts: tuple[Part, ...]


def _attention_macs(inputs: list, outputs: list) -> Counter:
    """Both products of attention, over the whole map: q (..., N, d), k (..., M, d), v (..., M, e)."""
    query, key, value = (get_shape(x) for x in inputs[:3])
    return Counter({"attention": prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def _deform_conv_macs(inputs: list, outputs: list) -> Counter:
    """The convolution, and 4 for each bilinear sample, which is what fvcore charges for `grid_sampler`."""
    (batch, channels, *_), weight, out = (get_shape(x) for x in (*inputs[:2], outputs[0]))
    positions = batch * prod(out[2:])
    return Counter({"deform_conv": positions * (prod(weight) + 4 * channels * prod(weight[2:]))})


def _matmul_macs(inputs: list, outputs: list) -> int:
    """Counts by the output: fvcore multiplies by the first operand's size, too little where that one is broadcast."""
    return prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]


def _baddbmm_macs(inputs: list, outputs: list) -> int:
    return prod(get_shape(outputs[0])) * get_shape(inputs[1])[-1]


def _embedding_bag_macs(inputs: list, outputs: list) -> Counter:
    """A weighted sum: each index multiplies and adds one row of the table."""
    return Counter({"embedding_bag": prod(get_shape(inputs[1])) * get_shape(inputs[0])[-1]})


# A call of torch's attention is one operator in a trace; the others are its kernels, for code that calls one by name.
_ATTENTION = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
)
_HANDLES = {
    **dict.fromkeys(_ATTENTION, _attention_macs),
    "torchvision::deform_conv2d": _deform_conv_macs,
    "aten::matmul": _matmul_macs,
    "aten::baddbmm": _baddbmm_macs,
    "aten::embedding_bag": _embedding_bag_macs,
}
_ACTIVATION_HANDLES = {
    name: generic_activation_jit() for name in (*_ATTENTION, "torchvision::deform_conv2d", "aten::baddbmm")
}

# Element-wise operators, reductions, pooling, sorting and data movement: nothing here multiplies and accumulates.
# Whatever is neither counted nor listed is reported, so that a new operator cannot hide a cost.
_FREE = frozenset(
    """
    abs add addcmul amax amin all any argmax argmin argsort avg_pool1d avg_pool2d adaptive_max_pool2d bitwise_and
    bitwise_not bitwise_or bucketize ceil clamp clamp_max clamp_min clip copy cos cumsum div dropout elu embedding eq
    erf exp exp2 expand_as expm1 feature_dropout fill flip floor floor_divide fmod fold gather ge gelu glu gt
    hardsigmoid hardswish hardtanh im2col col2im index index_add index_fill index_put index_select isfinite isnan le
    leaky_relu lerp linspace log log1p log2 log_softmax logical_and logical_not logical_or lt masked_fill masked_scatter
    max max_pool2d maximum mean meshgrid min minimum mish movedim mT mul ne neg new_ones nonzero norm numel linalg_norm
    linalg_vector_norm one_hot pad constant_pad_nd reflection_pad2d replication_pad2d pixel_shuffle pixel_unshuffle pow
    prelu reciprocal relu relu6 remainder repeat repeat_interleave rms_norm roll rot90 round rsqrt rsub scatter
    scatter_add scatter_reduce searchsorted selu _shape_as_tensor sigmoid sign silu sin softmax softplus sort sqrt
    square std std_mean sub sum tanh tile topk tril triu true_divide unflatten unfold upsample_bicubic2d var var_mean
    view_as view_as_complex view_as_real where zeros_like ones_like
    """.split()
)


def _is_free(operator: str) -> bool:
    namespace, _, name = operator.partition("::")
    return namespace == "aten" and name.removesuffix("_") in _FREE


class _TracedMetaConvolution(TorchFunctionMode):
    """Makes convolutions appear in a trace on the meta device.

    The tracer records `_convolution`, which a convolution reaches on every device except meta: there `convolution`, one
    step earlier, has a shape kernel, so the trace would lose it. Calling `_convolution` directly puts it back.
    """

    _DIMS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self._DIMS:
            return self._convolve(self._DIMS[func], *args, **(kwargs or {}))
        if func is torch.conv_transpose2d:
            return self._convolve_transposed(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _convolve(dims, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
        if isinstance(padding, str):
            raise NotImplementedError(f"padding={padding!r} on the meta device")
        sizes = ([v] * dims if isinstance(v, int) else list(v) for v in (stride, padding, dilation))
        return torch._convolution(
            input, weight, bias, *sizes, False, [0] * dims, groups, False, False, True, True
        )  # not transposed, no output padding; the last four choose a cuDNN algorithm

    @staticmethod
    def _convolve_transposed(
        input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
    ) -> Tensor:
        stride, padding, output_padding, dilation = (
            [v] * 2 if isinstance(v, int) else list(v) for v in (stride, padding, output_padding, dilation)
        )
        return torch._convolution(
            input, weight, bias, stride, padding, dilation, True, output_padding, groups, False, False, True, True
        )


# What `_convolution` calls on a device of no vendor's; its own default raises an error.
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("convolution_overrideable", lambda *args: torch.ops.aten.convolution(*args), "Meta")


def _part_modules(model: nn.Module) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if name == "stages" and isinstance(child, (nn.Sequential, nn.ModuleList)):
            parts.update((f"stages.{i}", stage) for i, stage in enumerate(child))
        else:
            parts[name] = child
    return parts


@contextlib.contextmanager
def _scopes_of(parts: dict[str, nn.Module]) -> Iterator[None]:
    """Let fvcore's traces tell these parts apart instead of all modules, as each level of scopes copies its nodes."""
    trace_modules = jit_analysis._get_scoped_trace_graph

    def trace_parts(model: nn.Module, inputs: Any, aliases: object) -> torch._C.Graph:
        owners = {module: name for name, part in reversed(parts.items()) for module in part.modules()}
        entered = [""]

        def enter(module: nn.Module, args: tuple) -> None:
            entered.append(owners.get(module, ""))
            if entered[-1] != entered[-2] and (state := torch._C._get_tracing_state()):
                state.push_scope(entered[-1])

        def leave(module: nn.Module, args: tuple, output: object) -> None:
            if entered.pop() != entered[-1] and (state := torch._C._get_tracing_state()):
                state.pop_scope()

        handles = [module.register_forward_pre_hook(enter) for module in model.modules()]
        handles += [module.register_forward_hook(leave) for module in model.modules()]
        try:
            return torch.jit._get_trace_graph(model, inputs)[0]
        finally:
            for handle in handles:
                handle.remove()

    jit_analysis._get_scoped_trace_graph = trace_parts
    try:
        yield
    finally:
        jit_analysis._get_scoped_trace_graph = trace_modules


@contextlib.contextmanager
def _record_shapes(modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[int, ...]]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def hook(name: str):
        def record(module: nn.Module, args: tuple, output: object) -> None:
            while isinstance(output, (tuple, list)) and output:
                output = output[0]
            if isinstance(output, Tensor):
                shapes[name] = tuple(int(n) for n in output.shape)  # sizes are tensors while tracing

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def _classifier_params(model: nn.Module) -> int:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    heads = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    return sum(p.numel() for head in heads if isinstance(head, nn.Module) for p in head.parameters())


def count(model: nn.Module, input_size: Sequence[int] | tuple[Tensor, ...], activations: bool = False) -> Complexity:
    """Counts a model's parameters and the multiply-accumulates of one forward pass in evaluation mode.

    Args:
        model: on any device; on the meta device it costs next to nothing.
        input_size: (C, H, W) of one image, or the forward pass's own arguments as a tuple of tensors.
        activations: also counts activations, at the cost of a second trace.

    Raises:
        ValueError: `input_size` is neither.
    """
    if all(isinstance(x, Tensor) for x in input_size):
        inputs = tuple(input_size)
    elif len(input_size) == 3 and all(isinstance(x, int) and x > 0 for x in input_size):
        if hasattr(model, "example_inputs"):  # one that takes more than an image
            inputs = model.example_inputs(1, *input_size[1:])
        else:
            first = next(model.parameters())
            inputs = (torch.zeros(1, *input_size, device=first.device, dtype=first.dtype),)
    else:
        raise ValueError(f"input_size is {input_size!r}; give (channels, height, width), or a tuple of tensors")

    parts = _part_modules(model)
    on_meta = inputs[0].device.type == "meta"
    was_training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            _TracedMetaConvolution() if on_meta else contextlib.nullcontext(),
            _record_shapes(parts) as shapes,
            _scopes_of(parts),
            constant_tables(),  # which are not made for every image
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # a trace for counting need not hold for other inputs
            flops = _quiet(FlopCountAnalysis(model, inputs)).set_op_handle(**_HANDLES)
            by_module = flops.by_module()
            written = None
            if activations:
                analysis = _quiet(ActivationCountAnalysis(model, inputs)).set_op_handle(**_ACTIVATION_HANDLES)
                written = int(analysis.total())
    finally:
        model.train(was_training)

    params = sum(p.numel() for p in model.parameters())
    return Complexity(
        params=params,
        params_backbone=params - _classifier_params(model),
        macs=int(flops.total()),
        macs_attention=int(flops.by_operator()["attention"]),
        operators={name: int(macs) for name, macs in flops.by_operator().items()},
        activations=written,
        unsupported={name: n for name, n in flops.unsupported_ops().items() if not _is_free(name)},
        parts=tuple(
            Part(name, shapes.get(name), sum(p.numel() for p in module.parameters()), int(by_module[name]))
            for name, module in parts.items()
        ),
    )


def _quiet(analysis):
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")


def count_model(
    spec: str, img_size: Sequence[int] | None = None, activations: bool = False, **options: Any
) -> tuple[Complexity, tuple[int, int]]:
    """Builds the model that `spec` names, counts it, and returns the count and the (height, width) it was counted at.

    A model that cannot be traced without data, which is said on stderr, is built and traced on the CPU.

    Raises:
        ValueError: `spec` is unknown; near names are suggested.
    """
    check_model(spec)
    for device in ("meta", "cpu"):
        try:
            model = build_model(spec, img_size, device, **options)
            size = (img_size[0], img_size[-1]) if img_size is not None else default_img_size(model)
            channels = getattr(model, "pretrained_cfg", {}).get("input_size", (3,))[0]
            return count(model, (channels, *size), activations), size
        except (NotImplementedError, RuntimeError, TypeError) as error:
            if device == "cpu":
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{spec}: cannot be traced without data ({reason}); trying with data", file=sys.stderr)
    raise AssertionError("unreachable")


class _WithoutContent(nn.Module):
    """A detector or segmentor as far as its cost does not depend on what the image shows.

    Where MMDetection would look at the boxes that it proposes, every box head gets 1,000 boxes and every mask head 100:
    so did the counter of MMDetection 2, by which most published numbers were made.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        model = self.model
        maps = model.extract_feat(x)
        if hasattr(model, "decode_head"):
            return model.decode_head(maps)
        if not hasattr(model, "roi_head"):
            return model.bbox_head(maps)
        outputs = [model.rpn_head(maps)]
        for kind, boxes in (("bbox", 1000), ("mask", 100)):
            heads, extractors = (getattr(model.roi_head, f"{kind}_{part}") for part in ("head", "roi_extractor"))
            for head, extractor in zip(*(m if isinstance(m, nn.ModuleList) else [m] for m in (heads, extractors))):
                size = extractor.roi_layers[0].output_size
                outputs.append(head(x.new_zeros(boxes, extractor.out_channels, *size)))
        return outputs


class _AfterBackbone(nn.Module):
    """What a detector or segmentor with queries (DINO, Mask2Former) computes from the maps of its backbone."""

    def __init__(self, model: nn.Module, img_size: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.img_size = tuple(img_size)

    def forward(self, *maps: Tensor) -> Any:
        model = self.model
        if hasattr(model, "decode_head"):
            return model.decode_head(list(maps), None)
        from mmdet.structures import DetDataSample

        sample = DetDataSample(metainfo={"batch_input_shape": self.img_size, "img_shape": self.img_size})
        return model.bbox_head(**model.forward_transformer(model.neck(maps), [sample]))


def _count_by_halves(model: nn.Module, img_size: Sequence[int]) -> Complexity:
    """Counts a detector or segmentor with queries: its decoder reads sizes of maps from tensors, and meta has no data.

    The backbone is counted on the meta device, the rest, which is less, on the CPU.
    """
    params = sum(p.numel() for p in model.parameters())
    image = torch.zeros(1, 3, *img_size, device="meta")
    halves = {"backbone": count(model.backbone.eval(), (image,))}
    with torch.no_grad():
        maps = tuple(torch.zeros(y.shape) for y in model.backbone(image))
    del model.backbone
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().zero_()
    halves["decoder"] = count(_AfterBackbone(model, img_size), maps)

    def total(field: str) -> Counter[str]:
        return sum((Counter(getattr(half, field)) for half in halves.values()), Counter())

    return Complexity(
        params=params,
        params_backbone=params,
        macs=sum(half.macs for half in halves.values()),
        macs_attention=sum(half.macs_attention for half in halves.values()),
        operators=dict(total("operators")),
        activations=None,
        unsupported=dict(total("unsupported")),
        parts=tuple(Part(name, None, half.params, half.macs) for name, half in halves.items()),
    )


def count_config(path: str | Path, img_size: Sequence[int]) -> Complexity:
    """Counts the detector, segmentor or classifier of an OpenMMLab config at a (height, width).

    A segmentor's auxiliary head has parameters, but takes no part in inference.

    Raises:
        FileNotFoundError, ValueError: no such config, or it does not parse.
    """
    from mmengine.registry import MODELS, DefaultScope

    from backbones.mm.training.run import load_config

    cfg = load_config(path)
    cfg.model.backbone.update(pretrained=False, init_cfg=None)
    with torch.device("meta"), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    if hasattr(model, "encoder") or hasattr(getattr(model, "decode_head", None), "pixel_decoder"):
        return _count_by_halves(model, img_size)
    whole = hasattr(model, "decode_head") or hasattr(model, "bbox_head") or hasattr(model, "roi_head")
    return count(_WithoutContent(model) if whole else model.backbone, (3, *img_size))


def _config_of(name: str) -> Path | None:
    """The config that ``name`` means, None if it means a model; an error if it means neither."""
    try:
        return find_config(name)
    except FileNotFoundError:
        if name.endswith(".py"):
            raise
    check_model(name)
    return None


def write_csv(path: Path, records: Sequence[tuple[str, tuple[int, int], Complexity]]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "height", "width", "params", "params_backbone", "macs", "activations"])
        for name, used, c in records:
            writer.writerow([name, *used, c.params, c.params_backbone, c.macs, c.activations])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if a model could not be counted."""
    parser = argparse.ArgumentParser(
        prog="backbones complexity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="a name known to timm, module:callable, or a config of OpenMMLab's"
    )
    parser.add_argument("--all", action="store_true", help="every model of this package")
    parser.add_argument("--img-size", type=parse_img_size, metavar="HxW", help="default: each model's own")
    parser.add_argument(
        "--num-classes", type=int_in(0), metavar="N", help="width of the classifier; default: each model's own"
    )
    parser.add_argument("--activations", action="store_true", help="also count activations (a second trace)")
    parser.add_argument("--attention", action="store_true", help="also show the part of fused attention's products")
    parser.add_argument("--stages", action="store_true", help="also show shape and cost of every stage")
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="write exact numbers here")
    args = parser.parse_args(argv)

    names = list(args.models)
    if args.all:
        names += [n for n in backbones.list_models() if not n.startswith("test_") and n not in names]
    if not names:
        parser.error("name a model, or give --all")
    size = args.img_size
    configs = {}
    for name in names:
        try:
            configs[name] = _config_of(name)
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))
        if configs[name] and size is None:
            parser.error(f"{name} is a config: give --img-size too")
        if configs[name] and (args.num_classes is not None or args.activations):
            parser.error(f"{name} is a config, of which neither --num-classes nor --activations is taken")

    options = {} if args.num_classes is None else {"num_classes": args.num_classes}
    records, failed = [], []
    for i, name in enumerate(names, 1):
        if sys.stderr.isatty():
            print(f"\r\033[K[{i}/{len(names)}] {name}", end="", file=sys.stderr, flush=True)
        try:
            if path := configs[name]:
                assert size is not None
                complexity, used = count_config(path, size), size
            else:
                complexity, used = count_model(name, size, args.activations, **options)
        except Exception as error:  # any model may fail in any way; the others still count
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        records.append((name, used, complexity))
        if args.csv:  # as they come: counting all takes minutes
            write_csv(args.csv, records)
        for operator, times in complexity.unsupported.items():
            print(f"warning: {name}: {operator} ran {times} times and is not counted", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)

    header = ["model", "input", "parameters", "backbone only", "GMACs"]
    header += ["of attention"] * args.attention + ["M activations"] * args.activations
    rows = []
    for name, used, c in records:
        row = [name, format_img_size(used), f"{c.params:,}", f"{c.params_backbone:,}", f"{c.macs / 1e9:.3f}"]
        row += [f"{c.macs_attention / 1e9:.3f}"] if args.attention else []
        rows.append(row + ([f"{(c.activations or 0) / 1e6:.2f}"] if args.activations else []))
    print(format_table(header, rows))
    if args.stages:
        for name, used, c in records:
            print(f"\n{name} at {format_img_size(used)}, batch 1")
            stages = [
                [p.name, "x".join(map(str, p.shape)) if p.shape else "-", f"{p.params:,}", f"{p.macs / 1e9:.3f}"]
                for p in c.parts
            ]
            print(format_table(["part", "output", "parameters", "GMACs"], stages))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
