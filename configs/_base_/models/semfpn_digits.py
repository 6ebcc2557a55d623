# MMSegmentation's Semantic FPN at a quarter of its width, for background and ten digits.
# A config adds backbone.model and neck.in_channels.
_base_ = "mmseg::_base_/models/fpn_r50.py"

norm_cfg = dict(type="BN")
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[64.0] * 3, size=(192, 256)),
    pretrained=None,
    backbone=dict(_delete_=True, type="ZooBackbone"),
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64] * 4,
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        # nine pixels in ten are background
        loss_decode=dict(class_weight=[0.1] + [1.0] * 10),
    ),
)
