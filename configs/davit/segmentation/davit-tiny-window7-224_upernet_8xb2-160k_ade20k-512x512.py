"""DaViT-Tiny in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2204.03645 and the authors' code
(repository: 46.3 mIoU, at one scale or several isn't said).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

norm_cfg = dict(type="BN")  # the authors' heads don't synchronise theirs
model = dict(
    backbone=dict(model="davit_tiny_window7_224", drop_path_rate=0.3, out_norm=True),
    decode_head=dict(in_channels=[96, 192, 384, 768], norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=384, norm_cfg=norm_cfg),
)
