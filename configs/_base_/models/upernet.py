# MMSegmentation's UPerNet around a pretrained model of the zoo, for ADE20K. A config adds backbone.model,
# decode_head.in_channels and auxiliary_head.in_channels (of the third stage).
_base_ = "mmseg::_base_/models/upernet_swin.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
