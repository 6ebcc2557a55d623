"""LITv2-B with HiLo windows of 4 in RetinaNet, 12 epochs on COCO.  Source: arXiv:2205.13213 and the authors' detection
code at f320e43 (repository: 46.3 box AP).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as litv2-b_retinanet-fpn_8xb2-1x_coco.py."""

_base_ = "./litv2-b_retinanet-fpn_8xb2-1x_coco.py"

model = dict(backbone=dict(attn_window_size=4))
