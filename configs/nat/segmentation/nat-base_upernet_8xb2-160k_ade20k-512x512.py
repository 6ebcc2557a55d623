"""NAT-Base in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2204.07143 and the authors' code (repository: 48.5
mIoU at one scale, 49.7 at several). Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as nat-mini_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./nat-mini_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="nat_base", drop_path_rate=0.5),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
