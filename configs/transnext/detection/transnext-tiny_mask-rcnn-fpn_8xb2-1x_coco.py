"""TransNeXt-Tiny in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2311.17132 and the authors' detection code
(repository: 49.9 box AP, 44.6 mask AP).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

# The position bias is that of images of 800 x 800, interpolated.
model = dict(
    backbone=dict(model="transnext_tiny.in1k", drop_path_rate=0.4, pos_bias_size=800),
    neck=dict(in_channels=[72, 144, 288, 576]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "query_embedding": dict(decay_mult=0.0),
            "rpb": dict(decay_mult=0.0),
            "pos_bias": dict(decay_mult=0.0),
            "temperature": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    )
)
