"""iLLaMA-B in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2404.06773 (paper: 45.1 mIoU at several scales).
Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as illama-tiny_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./illama-tiny_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="illama_base.in1k"),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
