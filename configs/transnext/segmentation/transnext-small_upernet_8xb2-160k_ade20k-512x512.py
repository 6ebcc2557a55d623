"""TransNeXt-Small in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2311.17132 and the authors' segmentation code
(repository: 52.2 mIoU; at several scales 52.5 with the position bias interpolated, 52.8 extrapolated).
Here: not trained.  Needs: 8 GPUs with 32 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

# The position bias is that of images of 512 x 512, interpolated; windows of that size are slid over test images.
model = dict(
    backbone=dict(model="transnext_small.in1k", drop_path_rate=0.6, pos_bias_size=512),
    decode_head=dict(in_channels=[72, 144, 288, 576]),
    auxiliary_head=dict(in_channels=288),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            "query_embedding": dict(decay_mult=0.0),
            "rpb": dict(decay_mult=0.0),
            "pos_bias": dict(decay_mult=0.0),
            "temperature": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
)
