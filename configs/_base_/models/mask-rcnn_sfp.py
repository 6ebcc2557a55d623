# Mask R-CNN with ViTDet's simple pyramid and heads around a pretrained plain model of stride 16. A config adds
# backbone.model, four backbone.out_indices, neck[0].embed_dim and neck[1].in_channels.
_base_ = "./mask-rcnn_fpn.py"

norm_cfg = dict(type="GN", num_groups=1)
model = dict(
    neck=[
        dict(type="mmseg.Feature2Pyramid", norm_cfg=norm_cfg),
        dict(type="FPN", out_channels=256, num_outs=5, norm_cfg=norm_cfg),
    ],
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
