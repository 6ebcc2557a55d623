"""HaloNet-H2 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2103.12731 for the network (paper: no such result),
which reports a ResNet with HaloNet's attention in its last stage only; the recipe is Swin's (arXiv:2103.14030).
Here: not trained.
Needs: 8 GPUs with 24 GB (estimate), and weights of halonet-h2-256_8xb128_in1k-256px, since none are published.
Run: as halonet-h0-256_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./halonet-h0-256_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(
    backbone=dict(
        model="halonet_h2_256",
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/halonet-h2-256_8xb128_in1k-256px/epoch_300.pth"),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
