"""NAT-Mini in Cascade Mask R-CNN, 36 epochs of multi-scale training on COCO. Source: arXiv:2204.07143 and the authors'
code (repository: 50.3 box AP, 43.6 mask AP). Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/cascade-mask-rcnn_fpn.py",
    "../../_base_/datasets/coco_multiscale.py",
    "../../_base_/schedules/adamw_3x_coco.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="nat_mini", drop_path_rate=0.2, out_norm=True),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
# The authors train in float16: --amp float16 does.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"rpb": dict(decay_mult=0.0), "norm": dict(decay_mult=0.0)}),
)
