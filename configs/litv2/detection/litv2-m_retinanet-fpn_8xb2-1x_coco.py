"""LITv2-M in RetinaNet, 12 epochs on COCO.  Source: arXiv:2205.13213 and the authors' detection code at f320e43
(repository: 46.0 box AP).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as litv2-s_retinanet-fpn_8xb2-1x_coco.py."""

_base_ = "./litv2-s_retinanet-fpn_8xb2-1x_coco.py"

model = dict(backbone=dict(model="litv2_m.in1k"))
