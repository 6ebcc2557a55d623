"""VAN-B3 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2202.09741 (paper: 48.3 box AP, 43.4 mask AP).
Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as van-b0_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./van-b0_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(backbone=dict(model="van_b3.in1k", drop_path_rate=0.3), neck=dict(in_channels=[64, 128, 320, 512]))
