"""DiNAT-Tiny in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO. Source: arXiv:2209.15001 and the
authors' code (repository: 52.2 box AP, 45.1 mask AP). Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as nat-mini_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./nat-mini_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py"

model = dict(backbone=dict(model="dinat_tiny", drop_path_rate=0.3, dilations="coco"))
