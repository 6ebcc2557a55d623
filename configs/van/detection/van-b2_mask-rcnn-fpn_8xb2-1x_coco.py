"""VAN-B2 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2202.09741 (paper: 46.4 box AP, 41.8 mask AP).
Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as van-b0_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./van-b0_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(backbone=dict(model="van_b2.in1k"), neck=dict(in_channels=[64, 128, 320, 512]))
