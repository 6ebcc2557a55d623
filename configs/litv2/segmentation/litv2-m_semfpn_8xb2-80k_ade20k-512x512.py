"""LITv2-M in Semantic FPN, 80,000 iterations on ADE20K.  Source: arXiv:2205.13213 and the authors' segmentation code
(repository: 45.7 mIoU at one scale).  Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).  Run: as litv2-s_semfpn_8xb2-80k_ade20k-512x512.py."""

_base_ = "./litv2-s_semfpn_8xb2-80k_ade20k-512x512.py"

model = dict(backbone=dict(model="litv2_m.in1k"))
