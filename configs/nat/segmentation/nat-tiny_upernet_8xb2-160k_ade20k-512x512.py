"""NAT-Tiny in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2204.07143 and the authors' code (repository: 47.1
mIoU at one scale, 48.4 at several). Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).  Run: as nat-mini_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./nat-mini_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="nat_tiny", drop_path_rate=0.3))
