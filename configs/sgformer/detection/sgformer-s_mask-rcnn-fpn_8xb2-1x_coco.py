"""SG-Former-S in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2308.12216 (paper, as arXiv:2405.07992 quotes it:
47.4 box AP, 42.6 mask AP); its recipe isn't public, this is Swin's (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

# Stages end with a norm of their own; the drop path is that of ImageNet.
model = dict(
    backbone=dict(model="sgformer_s.in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
