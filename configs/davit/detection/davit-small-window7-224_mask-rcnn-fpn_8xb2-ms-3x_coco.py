"""DaViT-Small in Mask R-CNN, 36 epochs of multi-scale training on COCO.  Source: arXiv:2204.03645 and the authors'
code (repository: 49.5 box AP, 44.3 mask AP).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as davit-tiny-window7-224_mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./davit-tiny-window7-224_mask-rcnn-fpn_8xb2-ms-3x_coco.py"

# The authors' code states one drop path, Tiny's; a larger model may want more.
model = dict(backbone=dict(model="davit_small_window7_224"))
