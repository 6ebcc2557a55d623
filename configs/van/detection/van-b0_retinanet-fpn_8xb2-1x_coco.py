"""VAN-B0 in RetinaNet, 12 epochs on COCO.  Source: arXiv:2202.09741 (paper: 38.8 box AP).  Here: not trained.
Needs: 8 GPUs with 12 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/retinanet_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

# The paper leaves drop path and BatchNorm open: the rates are those of its UPerNet, statistics are of all devices.
model = dict(
    backbone=dict(model="van_b0.in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
sync_bn = "torch"
