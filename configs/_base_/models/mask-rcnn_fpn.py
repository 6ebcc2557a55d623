# MMDetection's Mask R-CNN around a pretrained model of the zoo. A config adds backbone.model and neck.in_channels.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True))
