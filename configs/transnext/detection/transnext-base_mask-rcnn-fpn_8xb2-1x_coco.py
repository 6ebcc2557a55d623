"""TransNeXt-Base in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2311.17132 and the authors' detection code
(repository: 51.7 box AP, 45.9 mask AP).  Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).
Run: as transnext-tiny_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./transnext-tiny_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(
    backbone=dict(model="transnext_base.in1k", drop_path_rate=0.7),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
