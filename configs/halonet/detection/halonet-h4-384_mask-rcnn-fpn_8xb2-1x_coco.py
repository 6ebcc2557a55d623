"""HaloNet-H4 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2103.12731 for the network (paper: no such result),
which reports a ResNet with HaloNet's attention in its last stage only; the recipe is Swin's (arXiv:2103.14030).
Here: not trained.
Needs: 8 GPUs with 40 GB (estimate), and weights of halonet-h4-384_8xb64_in1k-384px, since none are published.
Run: as halonet-h0-256_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./halonet-h0-256_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(
    backbone=dict(
        model="halonet_h4_384",
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/halonet-h4-384_8xb64_in1k-384px/epoch_300.pth"),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
