"""LITv2-S in RetinaNet, 12 epochs on COCO.  Source: arXiv:2205.13213 and the authors' detection code at f320e43
(repository: 44.0 box AP).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/retinanet_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

# The map of stride 4 goes out without a norm.
model = dict(
    backbone=dict(model="litv2_s.in1k", drop_path_rate=0.2, out_norm=(False, True, True, True)),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
# RetinaNet decays norms, unlike Mask R-CNN: so the authors' runs did.
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
