"""STViT-S in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO.  Source: arXiv:2211.11167
(paper: 53.9 box AP, 46.8 mask AP at best, without naming size and detector); its recipe isn't public, this is Swin's
(arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/cascade-mask-rcnn_fpn.py",
    "../../_base_/datasets/coco_multiscale.py",
    "../../_base_/schedules/adamw_3x_coco.py",
    "../../_base_/detection_runtime.py",
]

# Its stages end without a norm, so they get Swin's; the drop path is that of ImageNet.
model = dict(
    backbone=dict(model="stvit_small.in1k", drop_path_rate=0.1, out_norm=True),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
sync_bn = "torch"
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
