"""VAN-B5, pre-trained on ImageNet-22K, in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2202.09741 and the
authors' segmentation code (paper: 53.9 mIoU at several scales).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as van-b0_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./van-b0_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b5.in21k", drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 480, 768]),
    auxiliary_head=dict(in_channels=480),
)
