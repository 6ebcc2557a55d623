"""HaloNet-H0 in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2103.12731 for the network (paper: no such result),
which reports a ResNet with HaloNet's attention in its last stage only; the recipe is Swin's (arXiv:2103.14030).
Here: not trained.
Needs: 8 GPUs with 16 GB (estimate), and weights of halonet-h0-256_8xb128_in1k-256px, since none are published.
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/adamw_1x_coco.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(
        model="halonet_h0_256",
        pretrained=False,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/halonet-h0-256_8xb128_in1k-256px/epoch_300.pth"),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
sync_bn = "torch"
# Its BatchNorms have many names.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
