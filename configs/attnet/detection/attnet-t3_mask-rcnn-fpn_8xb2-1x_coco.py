"""AttNet-T3 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2510.20092 for the network (paper: no such result);
no detector of it is public, this is Swin's recipe (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

# Its stages end without a norm, so they get Swin's; the drop path is that of ImageNet.
model = dict(
    backbone=dict(model="attnet_t3.in1k", drop_path_rate=0.4, out_norm=True),
    neck=dict(in_channels=[72, 144, 320, 576]),
)
sync_bn = "torch"
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
