"""VAN-B2 in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO.  Source: arXiv:2202.09741
(paper: 52.0 box AP).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/cascade-mask-rcnn_fpn.py",
    "../../_base_/datasets/coco_multiscale.py",
    "../../_base_/schedules/adamw_3x_coco.py",
    "../../_base_/detection_runtime.py",
]

# The paper leaves drop path and BatchNorm open: the rates are those of its UPerNet, statistics are of all devices.
model = dict(
    backbone=dict(model="van_b2.in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
sync_bn = "torch"
