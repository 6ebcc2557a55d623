"""DiNAT-Mini in Mask R-CNN, 36 epochs of multi-scale training on COCO. Source: arXiv:2209.15001 and the authors' code
(repository: 47.2 box AP, 42.5 mask AP). Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).  Run: as nat-mini_mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./nat-mini_mask-rcnn-fpn_8xb2-ms-3x_coco.py"

model = dict(backbone=dict(model="dinat_mini", dilations="coco"))
