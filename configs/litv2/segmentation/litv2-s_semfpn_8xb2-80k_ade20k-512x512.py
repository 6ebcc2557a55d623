"""LITv2-S in Semantic FPN, 80,000 iterations on ADE20K.  Source: arXiv:2205.13213 and the authors' segmentation code
(repository: 44.3 mIoU at one scale).  Here: not trained.
Needs: 8 GPUs with 12 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/semfpn.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_80k_ade20k.py",
]

model = dict(
    backbone=dict(model="litv2_s.in1k", drop_path_rate=0.2, out_norm=True),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
