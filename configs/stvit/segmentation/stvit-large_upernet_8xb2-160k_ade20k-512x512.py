"""STViT-L in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2211.11167 (paper: 51.9 mIoU at best, without
naming size and head); its recipe isn't public, this is Swin's (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as stvit-small_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./stvit-small_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="stvit_large.in1k", drop_path_rate=0.6),
    decode_head=dict(in_channels=[96, 192, 448, 640]),
    auxiliary_head=dict(in_channels=448),
)
