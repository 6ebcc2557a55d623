"""VAN-B0 in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2202.09741 and the authors' segmentation code
(paper: 41.1 mIoU at several scales).  Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

model = dict(
    backbone=dict(model="van_b0.in1k", drop_path_rate=0.1, norm_eps=1e-5),
    decode_head=dict(in_channels=[32, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160),
)
sync_bn = "torch"

# Test images are resized, not padded, to multiples of 32.
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type="ResizeToMultiple", size_divisor=32))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}))
