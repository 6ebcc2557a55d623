# MMSegmentation's Semantic FPN around a pretrained model of the zoo, for ADE20K. A config adds backbone.model and
# neck.in_channels.
_base_ = "mmseg::_base_/models/fpn_r50.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True),
    decode_head=dict(num_classes=150),
)
