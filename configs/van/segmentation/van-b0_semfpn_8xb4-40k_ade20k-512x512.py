"""VAN-B0 in Semantic FPN, 40,000 iterations on ADE20K.  Source: arXiv:2202.09741 and the authors' segmentation code
(paper: 38.5 mIoU at one scale).  Here: not trained.
Needs: 8 GPUs with 12 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/semfpn.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_80k_ade20k.py",
]

model = dict(
    backbone=dict(model="van_b0.in1k", drop_path_rate=0.2, norm_eps=1e-5),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
sync_bn = "torch"

# Test images are resized, not padded, to multiples of 32.
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type="ResizeToMultiple", size_divisor=32))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=40000)
auto_scale_lr = dict(base_batch_size=32)
