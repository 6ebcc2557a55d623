# MMSegmentation's UPerNet at an eighth of its width, for background and ten digits.
# A config adds backbone.model, decode_head.in_channels and auxiliary_head.in_channels (of the third stage).
_base_ = "mmseg::_base_/models/upernet_swin.py"

norm_cfg = dict(type="BN")
loss = dict(class_weight=[0.1] + [1.0] * 10)  # nine pixels in ten are background
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[64.0] * 3, size=(192, 256)),
    backbone=dict(_delete_=True, type="ZooBackbone"),
    decode_head=dict(channels=64, num_classes=11, norm_cfg=norm_cfg, loss_decode=loss),
    auxiliary_head=dict(channels=32, num_classes=11, norm_cfg=norm_cfg, loss_decode=loss),
)
