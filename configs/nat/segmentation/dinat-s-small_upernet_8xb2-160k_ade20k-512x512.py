"""DiNAT_s-Small in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2209.15001 and the authors' code (repository:
48.6 mIoU at one scale, 49.9 at several). Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as nat-mini_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./nat-mini_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="dinat_s_small", drop_path_rate=0.3, dilations="s_ade20k"),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
