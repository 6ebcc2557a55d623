"""LITv2-B in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2205.13213 and the authors' detection code at f320e43
(repository: 47.3 box AP, 42.6 mask AP).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as litv2-s_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./litv2-s_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(
    backbone=dict(model="litv2_b.in1k", drop_path_rate=0.3, with_cp=True),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
