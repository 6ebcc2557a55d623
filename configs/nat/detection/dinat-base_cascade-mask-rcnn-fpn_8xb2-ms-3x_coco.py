"""DiNAT-Base in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO. Source: arXiv:2209.15001 and the
authors' code (repository: 53.4 box AP, 46.2 mask AP). Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as nat-mini_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./nat-mini_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_base", drop_path_rate=0.6, dilations="coco"),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
