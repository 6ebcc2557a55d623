"""VAN-B2 in Semantic FPN, 40,000 iterations on ADE20K.  Source: arXiv:2202.09741 and the authors' segmentation code
(paper: 46.7 mIoU at one scale).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as van-b0_semfpn_8xb4-40k_ade20k-512x512.py."""

_base_ = "./van-b0_semfpn_8xb4-40k_ade20k-512x512.py"

model = dict(backbone=dict(model="van_b2.in1k"), neck=dict(in_channels=[64, 128, 320, 512]))
