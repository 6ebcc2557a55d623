"""DaViT-Tiny in RetinaNet, 12 epochs of multi-scale training on COCO.  Source: arXiv:2204.03645 and the authors' code
(repository: 44.0 box AP).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/retinanet_fpn.py",
    "../../_base_/datasets/coco_multiscale_boxes.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="davit_tiny_window7_224", drop_path_rate=0.1, out_norm=(False, True, True, True)),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
