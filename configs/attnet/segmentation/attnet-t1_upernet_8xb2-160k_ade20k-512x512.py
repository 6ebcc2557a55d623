"""AttNet-T1 in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2510.20092 for the network (paper: no such
result); no segmentor of it is public, this is Swin's recipe (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

# Its stages end without a norm, so they get Swin's; the drop path is that of ImageNet.
model = dict(
    backbone=dict(model="attnet_t1.in1k", drop_path_rate=0.1, out_norm=True),
    decode_head=dict(in_channels=[48, 96, 224, 384]),
    auxiliary_head=dict(in_channels=224),
)
sync_bn = "torch"
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
