"""DaViT-Small in Mask R-CNN, 12 epochs of multi-scale training on COCO.  Source: arXiv:2204.03645 and the authors'
code (repository: 47.7 box AP, 42.9 mask AP).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as davit-tiny-window7-224_mask-rcnn-fpn_8xb2-ms-1x_coco.py."""

_base_ = "./davit-tiny-window7-224_mask-rcnn-fpn_8xb2-ms-1x_coco.py"

# The authors' code states one drop path, Tiny's; a larger model may want more.
model = dict(backbone=dict(model="davit_small_window7_224"))
