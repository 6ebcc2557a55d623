"""SG-Former-S in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2308.12216 (paper, as arXiv:2405.07992 quotes
it: 49.9 mIoU at one scale, 51.5 at several); its recipe isn't public, this is Swin's (arXiv:2103.14030).
Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

# Stages end with a norm of their own; the drop path is that of ImageNet.
model = dict(
    backbone=dict(model="sgformer_s.in1k", drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
