"""iLLaMA-T in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2404.06773 (paper: 37.7 mIoU at several scales).
Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/segmentation_ade20k.py",
    "../../_base_/schedules/adamw_160k_ade20k.py",
]

# With a pyramid and a head as wide as the tokens, the whole has the paper's number of parameters. Crops have the size
# of training in tests too: positions count tokens in raster order, and another width would turn them otherwise.
model = dict(
    backbone=dict(
        model="illama_tiny.in1k",
        img_size=512,
        dynamic_img_size=True,
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=192),
    decode_head=dict(in_channels=[192] * 4, channels=192),
    auxiliary_head=dict(in_channels=192),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))
