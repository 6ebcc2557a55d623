"""LITv2-S with HiLo windows of 4 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2205.13213 and the authors'
detection code at f320e43 (repository: 44.7 box AP, 40.7 mask AP).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as litv2-s_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./litv2-s_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(backbone=dict(attn_window_size=4))
