"""TransNeXt-Tiny in DINO with five levels, 12 epochs of multi-scale training on COCO.  Source: arXiv:2311.17132 and the
authors' detection code (repository: 55.7 box AP).  Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).
Run: as transnext-tiny_dino-4scale_8xb1-ms-12e_coco.py."""

_base_ = "./transnext-tiny_dino-4scale_8xb1-ms-12e_coco.py"

model = dict(
    num_feature_levels=5,
    backbone=dict(out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[72, 144, 288, 576], num_outs=5),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=5))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=5))),
)
