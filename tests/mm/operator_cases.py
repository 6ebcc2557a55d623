"""Calls of mmcv's operators and of detectors built on them, of which the compiled build's results are stored.

``python tests/mm/operator_cases.py FILE`` runs all of them with the operators in use and writes what they give. The
file of the repository, ``operator_values.npz``, was written where mmcv is compiled, with
``BACKBONES_MM_OPERATORS=compiled``. Inputs come from numpy, whose generators give the same numbers everywhere.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

import backbones.mm  # noqa: F401  (mmcv's operators)

Results = dict[str, Tensor]
VALUES = Path(__file__).with_name("operator_values.npz")


@dataclass
class Inputs:
    """Random tensors: the same for one seed, whatever their type, device and memory format; exact in half types."""

    seed: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = False

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def __call__(self, *shape: int, low: float = 0.0, high: float = 1.0, grad: bool = False) -> Tensor:
        """Uniform numbers between ``low`` and ``high``."""
        x = torch.from_numpy(self.rng.uniform(low, high, shape).astype("float32"))
        x = self.exact(x)
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x.requires_grad_(grad)

    def exact(self, x: Tensor) -> Tensor:
        """float32 as both half types have it."""
        return x.bfloat16().half().to(self.device, self.dtype)

    def boxes(self, count: int, size: float = 100.0) -> Tensor:
        corner, extent = self.rng.uniform(0, size, (count, 2)), self.rng.uniform(1, size / 2, (count, 2))
        x = torch.from_numpy(np.concatenate([corner, corner + extent], 1).astype("float32"))
        return self.exact(x)

    def scores(self, count: int) -> Tensor:
        """All different, in half types too."""
        return torch.from_numpy(self.rng.permutation(count) / 256).to(self.device, self.dtype)

    def regions(self, count: int, batch: int, size: float = 100.0) -> Tensor:
        """``(count, 5)``, some of them partly or wholly outside, two without area."""
        boxes = self.boxes(count, size) - size / 4
        boxes[0, 2:] = boxes[0, :2]
        boxes[1, 2] = boxes[1, 0]
        image = torch.from_numpy(self.rng.integers(0, batch, (count, 1))).to(boxes)
        return torch.cat([image, self.exact(boxes)], 1)


def gradients(output: Tensor, **inputs: Tensor) -> Results:
    """The output and gradients of a weighted sum of it."""
    weight = torch.linspace(-1, 1, max(output.numel(), 1), device=output.device)[: output.numel()].view(output.shape)
    grads = torch.autograd.grad((output.float() * weight).sum(), list(inputs.values()))
    return {"output": output.detach(), **{f"grad_{name}": grad for name, grad in zip(inputs, grads)}}


def nms(inputs: Inputs, threshold: float, offset: int) -> Results:
    from mmcv.ops import nms

    return {"kept": nms(inputs.boxes(200), inputs.scores(200), threshold, offset)[1]}


def nms_at_the_threshold(inputs: Inputs, tenths: int) -> Results:
    """Pairs of boxes whose overlap is exactly tenths / 10 in real numbers."""
    from mmcv.ops import nms, nms_match

    start = torch.arange(8, dtype=inputs.dtype, device=inputs.device) * 16
    # one of length 10, and a shorter one inside it
    boxes = torch.cat([torch.stack([start, start * 0, start + length, start * 0 + 5], 1) for length in (10, tenths)])
    scores = inputs.scores(len(boxes))
    groups = nms_match(torch.cat([boxes, scores[:, None]], 1), tenths / 10)
    return {
        "kept": nms(boxes, scores, tenths / 10)[1],
        "matched": torch.tensor([index for group in groups for index in group]),
    }


def nms_of_strange_boxes(inputs: Inputs) -> Results:
    """Without area, twice the same, of negative size, infinite, not a number."""
    from mmcv.ops import nms

    inf, nan = float("inf"), float("nan")
    strange = [[5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 3, 3], [0, 0, inf, inf], [nan, 1, 2, 3], [1, 1, 1, 8]]
    boxes = torch.cat([inputs.boxes(20, 20.0), torch.tensor(strange).to(inputs.device, inputs.dtype)])
    scores = inputs.scores(len(boxes))
    return {f"kept_{offset}": nms(boxes, scores, 0.3, offset)[1] for offset in (0, 1)}


def ties_far_apart(inputs: Inputs) -> Results:
    """Of equal scores, where it does not matter who comes first: as sets."""
    from mmcv.ops import nms

    step = torch.arange(60, device=inputs.device, dtype=inputs.dtype)[:, None] * 20
    boxes = torch.cat([step, step, step + 10, step + 10], 1)
    return {"kept": nms(boxes, torch.ones_like(step[:, 0]), 0.5)[1].sort().values}


def soft_nms(inputs: Inputs, method: str, threshold: float, offset: int) -> Results:
    from mmcv.ops import soft_nms

    dets, kept = soft_nms(inputs.boxes(60), inputs.scores(60), threshold, 0.5, 0.01, method, offset)
    return {"dets": dets, "kept": kept}


def nms_match(inputs: Inputs, threshold: float) -> Results:
    from mmcv.ops import nms_match

    groups = nms_match(torch.cat([inputs.boxes(100), inputs.scores(100)[:, None]], 1), threshold)
    return {"sizes": torch.tensor([len(group) for group in groups]), "matched": torch.cat(groups)}


def bbox_overlaps(inputs: Inputs, mode: str, aligned: bool, offset: int) -> Results:
    from mmcv.ops import bbox_overlaps

    return {"ious": bbox_overlaps(inputs.boxes(20), inputs.boxes(20), mode, aligned, offset)}


def roi_align(inputs: Inputs, mode: str, aligned: bool, ratio: int, batch: int = 2, regions: int = 12) -> Results:
    from mmcv.ops import roi_align

    maps = inputs(batch, 5, 20, 24, low=-1, grad=True)
    rois = inputs.regions(max(regions, 2), batch)[:regions]
    if mode == "max":
        rois = rois[2:]  # without area the compiled one gives -10000, and a gradient to the first pixel
    elif not aligned and regions:
        rois[0, 3:] = inputs.exact(rois[0, 1:3] - 8)  # of negative size: computed as if of one pixel
    return gradients(roi_align(maps, rois, (3, 4), 0.25, ratio, mode, aligned), maps=maps)


def deform_conv(
    inputs: Inputs, modulated: bool, reach: float, stride: int, dilation: int, groups: int, deform_groups: int
) -> Results:
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    padding, height, width = dilation, 10, 9
    size = [(n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (height, width)]
    x = inputs(2, 8, height, width, low=-1, grad=True)
    offset = inputs(2, 18 * deform_groups, *size, low=-reach, high=reach, grad=True)
    weight = inputs(8, 8 // groups, 3, 3, low=-1, grad=True)
    if not modulated:
        output = deform_conv2d(x, offset, weight, stride, padding, dilation, groups, deform_groups)
        return gradients(output, x=x, offset=offset, weight=weight)
    mask = inputs(2, 9 * deform_groups, *size, grad=True)
    bias = inputs(8, grad=True)
    output = modulated_deform_conv2d(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)
    return gradients(output, x=x, offset=offset, weight=weight, mask=mask, bias=bias)


def larger_offsets(inputs: Inputs) -> Results:
    """As DyHead passes them: of a finer level than the output."""
    from mmcv.ops import modulated_deform_conv2d

    x, weight = inputs(2, 4, 8, 10, low=-1, grad=True), inputs(4, 4, 3, 3, low=-1, grad=True)
    offset, mask = inputs(2, 18, 8, 10, low=-2, high=2, grad=True), inputs(2, 9, 8, 10, grad=True)
    output = modulated_deform_conv2d(x, offset, mask, weight, None, 2, 1)
    return gradients(output, x=x, offset=offset, weight=weight, mask=mask)


def psa_mask(inputs: Inputs, kind: str, height: int, width: int) -> Results:
    from mmcv.ops import PSAMask

    masks = inputs(2, height * width, 4, 6, low=-1, grad=True)
    return gradients(PSAMask(kind, (height, width))(masks), masks=masks)


CASES: dict[str, Callable[[Inputs], Results]] = {
    **{f"nms/{t}-{o}": partial(nms, threshold=t, offset=o) for t, o in product((0.1, 0.3, 0.5, 0.7), (0, 1))},
    **{f"nms/exactly-{t}-tenths": partial(nms_at_the_threshold, tenths=t) for t in range(1, 10)},
    "nms/strange": nms_of_strange_boxes,
    "nms/ties": ties_far_apart,
    **{
        f"soft_nms/{m}-{t}-{o}": partial(soft_nms, method=m, threshold=t, offset=o)
        for m, t, o in product(("naive", "linear", "gaussian"), (0.3, 0.5), (0, 1))
    },
    **{f"nms_match/{t}": partial(nms_match, threshold=t) for t in (0.3, 0.7)},
    **{
        f"bbox_overlaps/{m}-{a:d}-{o}": partial(bbox_overlaps, mode=m, aligned=a, offset=o)
        for m, a, o in product(("iou", "iof"), (False, True), (0, 1))
    },
    **{
        f"roi_align/{m}-{a:d}-{r}": partial(roi_align, mode=m, aligned=a, ratio=r)
        for m, a, r in product(("avg", "max"), (False, True), (0, 2))
    },
    **{f"roi_align/{m}-empty": partial(roi_align, mode=m, aligned=True, ratio=0, regions=0) for m in ("avg", "max")},
    **{
        f"{'modulated_' * m}deform_conv/{o}-{s}-{d}-{g}-{dg}": partial(
            deform_conv, modulated=m, reach=o, stride=s, dilation=d, groups=g, deform_groups=dg
        )
        # offsets of 0 put points at exactly -1
        for m, o, (s, d, g, dg) in product((False, True), (0, 1.5, 20), ((1, 1, 1, 1), (2, 1, 2, 2), (1, 2, 4, 1)))
    },
    "modulated_deform_conv/larger-offsets": larger_offsets,
    **{
        f"psa_mask/{k}-{h}x{w}": partial(psa_mask, kind=k, height=h, width=w)
        for k, (h, w) in product(("collect", "distribute"), ((7, 11), (3, 5)))
    },
}


def run_case(name: str, **options) -> Results:
    """Run one case; options are those of :class:`Inputs`."""
    return CASES[name](Inputs(seed=crc32(name.encode()), **options))


# Whole models ---------------------------------------------------------------------------------------------------------

BACKBONE = dict(type="ZooBackbone", model="test_van")
WIDTHS = [16, 32, 48, 64]
FPN = dict(in_channels=WIDTHS, out_channels=32)
DEEP = dict(in_channels=32, feat_channels=32, stacked_convs=2)
PYRAMID = dict(backbone=BACKBONE, neck=FPN)
RPN = dict(in_channels=32, feat_channels=32)
BOXES = dict(in_channels=32, fc_out_channels=64)
REGIONS = dict(out_channels=32)
TRAINING = dict(rpn_proposal=dict(max_per_img=100))
TESTING = dict(rpn=dict(max_per_img=100))
ATTENTION = dict(embed_dims=32, num_heads=4)
FEEDFORWARD = dict(embed_dims=32, feedforward_channels=64)
ENCODER = dict(num_layers=1, layer_cfg=dict(self_attn_cfg=ATTENTION, ffn_cfg=FEEDFORWARD))
DECODER = dict(num_layers=2, layer_cfg=dict(self_attn_cfg=ATTENTION, cross_attn_cfg=ATTENTION, ffn_cfg=FEEDFORWARD))
DETR = dict(
    backbone=dict(**BACKBONE, out_indices=(1, 2, 3)),
    neck=dict(in_channels=WIDTHS[1:], out_channels=32, norm_cfg=dict(num_groups=4)),
    num_queries=20,
    encoder=ENCODER,
    decoder=DECODER,
    positional_encoding=dict(num_feats=16),
    bbox_head=dict(embed_dims=32),
)

# A config of MMDetection, and what makes it small: keys are set in its dictionaries, lists are met item by item.
MODELS: dict[str, tuple[str, dict]] = {
    "retinanet": ("retinanet/retinanet_r50_fpn_1x_coco.py", dict(**PYRAMID, bbox_head=DEEP)),
    "mask-rcnn": (
        "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        dict(
            **PYRAMID,
            rpn_head=RPN,
            roi_head=dict(
                bbox_roi_extractor=REGIONS,
                bbox_head=BOXES,
                mask_roi_extractor=REGIONS,
                mask_head=dict(in_channels=32, conv_out_channels=32, num_convs=1),
            ),
            train_cfg=TRAINING,
            test_cfg=TESTING,
        ),
    ),
    "cascade-rcnn": (
        "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
        dict(
            **PYRAMID,
            rpn_head=RPN,
            roi_head=dict(bbox_roi_extractor=REGIONS, bbox_head=[BOXES] * 3),
            train_cfg=TRAINING,
            test_cfg=TESTING,
        ),
    ),
    "fcos-dcn": (
        "fcos/fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
        dict(**PYRAMID, bbox_head=DEEP),
    ),
    "vfnet": ("vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py", dict(**PYRAMID, bbox_head=DEEP)),
    "tood": ("tood/tood_r50_fpn_1x_coco.py", dict(**PYRAMID, bbox_head=DEEP)),
    "dyhead": (
        "dyhead/atss_r50_fpn_dyhead_1x_coco.py",
        dict(
            backbone=BACKBONE,
            neck=[FPN, dict(in_channels=32, out_channels=32, num_blocks=1)],
            bbox_head=dict(in_channels=32, feat_channels=32),
        ),
    ),
    "deformable-detr": ("deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", DETR),
    "dino": ("dino/dino-4scale_r50_8xb2-12e_coco.py", dict(DETR, dn_cfg=dict(group_cfg=dict(num_dn_queries=10)))),
    "mask2former": (
        "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        dict(
            backbone=BACKBONE,
            data_preprocessor=dict(batch_augments=None),
            panoptic_head=dict(
                in_channels=WIDTHS,
                feat_channels=32,
                out_channels=32,
                num_queries=20,
                pixel_decoder=dict(
                    norm_cfg=dict(num_groups=4), encoder=ENCODER, positional_encoding=dict(num_feats=16)
                ),
                positional_encoding=dict(num_feats=16),
                transformer_decoder=DECODER,
            ),
            train_cfg=dict(num_points=64),
        ),
    ),
    "point-rend": (
        "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
        dict(
            **PYRAMID,
            rpn_head=RPN,
            roi_head=dict(
                bbox_roi_extractor=REGIONS,
                bbox_head=BOXES,
                mask_roi_extractor=REGIONS,
                mask_head=dict(in_channels=32, conv_out_channels=32, fc_out_channels=64),
                point_head=dict(in_channels=32, fc_channels=32),
            ),
            train_cfg=TRAINING,
            test_cfg=dict(**TESTING, rcnn=dict(subdivision_num_points=64, max_per_img=10)),
        ),
    ),
}


def _merge(config, changes):
    """``changes`` into ``config``, dictionary by dictionary; a backbone is replaced."""
    for key, value in changes.items() if isinstance(changes, dict) else enumerate(changes):
        if isinstance(value, dict) and "type" not in value or isinstance(value, list) and isinstance(value[0], dict):
            _merge(config[key], value)
        else:
            config[key] = value


def build_detector(config: str, changes: dict) -> torch.nn.Module:
    """A detector of MMDetection's configs, made small, every parameter drawn by its name."""
    import mmdet
    import mmdet.models  # noqa: F401
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import MODELS, DefaultScope

    model = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs" / config).model.to_dict()
    _merge(model, changes)
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(ConfigDict(model))
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            rng = np.random.default_rng(crc32(name.encode()))
            values = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)).astype("float32"))
            if parameter.ndim > 1:
                parameter.copy_(values / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * values + name.endswith("weight"))
    return detector


def detector_data(device: str = "cpu", images: int = 2) -> dict:
    """Noise with boxes and masks, as MMDetection's own tests have it."""
    from mmdet.testing import demo_mm_inputs

    items = [3, 2][:images]
    return demo_mm_inputs(images, (3, 96, 128), num_items=items, num_classes=8, with_mask=True, device=device)


def run_model(name: str, device: str = "cpu") -> Results:
    """Loss, norm of the gradient, and the first boxes of a detector in float32."""
    from mmengine.logging import MessageHub

    detector = build_detector(*MODELS[name]).to(device)
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info("epoch", 0)  # TOOD assigns differently in its first epochs
    losses = detector.train()(**detector.data_preprocessor(detector_data(device), training=True), mode="loss")
    loss, terms = detector.parse_losses(losses)
    loss.backward()
    grads = [p.grad.double().square().sum() for p in detector.parameters() if p.grad is not None]
    with torch.no_grad():
        predictions = detector.eval()(**detector.data_preprocessor(detector_data(device)), mode="predict")
    return {
        "losses": torch.stack([terms[key].detach().mean() for key in sorted(terms)]),
        "grad_norm": torch.stack(grads).sum().sqrt()[None],
        **{
            f"{key}_{i}": sample.pred_instances[key][:10]
            for i, sample in enumerate(predictions)
            for key in ("bboxes", "scores", "labels")
        },
    }


def main(path: str) -> None:
    results = {name: run_case(name) for name in CASES} | {f"model/{name}": run_model(name) for name in MODELS}
    arrays = {f"{name}/{key}": value.numpy() for name, result in results.items() for key, value in result.items()}
    np.savez_compressed(path, **arrays)
    print(f"wrote {len(arrays)} arrays, {Path(path).stat().st_size / 1000:.0f} kB, to {path}")


if __name__ == "__main__":
    main(sys.argv[1])
