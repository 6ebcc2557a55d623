"""SG-Former-B in Mask R-CNN, 36 epochs of multi-scale training on COCO.  Source: arXiv:2308.12216 (paper: 51.2 box AP,
without naming detector and schedule); its recipe isn't public, this is Swin's (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_fpn.py",
    "../../_base_/datasets/coco_multiscale.py",
    "../../_base_/schedules/adamw_3x_coco.py",
    "../../_base_/detection_runtime.py",
]

# Stages end with a norm of their own; the drop path is that of ImageNet.
model = dict(
    backbone=dict(model="sgformer_b.in1k", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
