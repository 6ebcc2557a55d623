"""DiNAT_s-Tiny in Mask R-CNN, 36 epochs of multi-scale training on COCO. Source: arXiv:2209.15001 and the authors' code
(repository: 46.6 box AP, 42.1 mask AP). Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as nat-mini_mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./nat-mini_mask-rcnn-fpn_8xb2-ms-3x_coco.py"

model = dict(backbone=dict(model="dinat_s_tiny", dilations="s_coco"), neck=dict(in_channels=[96, 192, 384, 768]))
