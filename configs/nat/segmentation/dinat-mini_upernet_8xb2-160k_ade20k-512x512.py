"""DiNAT-Mini in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2209.15001 and the authors' code (repository: 45.8
mIoU at one scale, 47.2 at several). Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).  Run: as nat-mini_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./nat-mini_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="dinat_mini", dilations="ade20k"))
