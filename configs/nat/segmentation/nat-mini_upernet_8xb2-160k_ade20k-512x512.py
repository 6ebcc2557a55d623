"""NAT-Mini in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2204.07143 and the authors' code (repository: 45.1
mIoU at one scale, 46.4 at several). Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

model = dict(
    backbone=dict(model="nat_mini", drop_path_rate=0.2, out_norm=True),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
# The authors train in float16: --amp float16 does.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"rpb": dict(decay_mult=0.0), "norm": dict(decay_mult=0.0)}),
)
