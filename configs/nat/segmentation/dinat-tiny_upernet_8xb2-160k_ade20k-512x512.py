"""DiNAT-Tiny in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2209.15001 and the authors' code (repository: 47.8
mIoU at one scale, 48.8 at several). Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as nat-mini_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./nat-mini_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="dinat_tiny", drop_path_rate=0.3, dilations="ade20k"))
