# MMDetection's Cascade Mask R-CNN around a pretrained model of the zoo, with the box heads of Swin's configs: four
# convolutions, one set of boxes a class. A config adds backbone.model and neck.in_channels.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True),
    roi_head=dict(
        bbox_head=[
            dict(
                head,
                type="Shared4Conv1FCBBoxHead",
                norm_cfg=dict(type="SyncBN"),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for head in _base_.model.roi_head.bbox_head
        ]
    ),
)
