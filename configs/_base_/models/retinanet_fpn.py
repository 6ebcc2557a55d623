# MMDetection's RetinaNet around a pretrained model of the zoo. A config adds backbone.model and neck.in_channels.
# Its pyramid starts at stride 8: an output norm of the first stage would never learn.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True))
