# MMDetection's RetinaNet at a quarter of its width, with GroupNorm for training from scratch, for ten digits.
# A config adds backbone.model and neck.in_channels.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

norm_cfg = dict(type="GN", num_groups=8)
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[64.0] * 3),
    backbone=dict(_delete_=True, type="ZooBackbone"),
    neck=dict(out_channels=64, norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=10, in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=norm_cfg),
)
