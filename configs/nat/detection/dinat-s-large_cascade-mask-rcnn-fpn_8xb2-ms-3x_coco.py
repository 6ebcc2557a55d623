"""DiNAT_s-Large in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO. Source: arXiv:2209.15001 and the
authors' code (repository: 54.8 box AP, 47.2 mask AP). Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as nat-mini_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py."""

_base_ = "./nat-mini_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_s_large.in22k", drop_path_rate=0.6, dilations="s_coco"),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=5e-5))
