"""DiNAT_s-Large in UPerNet, 160,000 iterations on ADE20K. Source: arXiv:2209.15001 and the authors' code (repository:
53.4 mIoU at one scale, 54.6 at several). Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as nat-mini_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./nat-mini_upernet_8xb2-160k_ade20k-512x512.py"

# The released configuration is named after crops of 640, but cuts 512.
model = dict(
    backbone=dict(model="dinat_s_large.in22k", drop_path_rate=0.3, dilations="s_ade20k_large"),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
