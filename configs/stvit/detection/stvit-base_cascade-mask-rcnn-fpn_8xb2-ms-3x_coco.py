"""STViT-B in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO.  Source: arXiv:2211.11167
(paper: 53.9 box AP, 46.8 mask AP at best, without naming size and detector); its recipe isn't public, this is Swin's
(arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as stvit-small_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./stvit-small_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py"

model = dict(
    backbone=dict(model="stvit_base.in1k", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
