"""DaViT-Tiny in Mask R-CNN, 36 epochs of multi-scale training on COCO.  Source: arXiv:2204.03645 and the authors' code
(repository: 47.4 box AP, 42.9 mask AP).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_fpn.py",
    "../../_base_/datasets/coco_multiscale.py",
    "../../_base_/schedules/adamw_3x_coco.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="davit_tiny_window7_224", drop_path_rate=0.2, out_norm=True),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
