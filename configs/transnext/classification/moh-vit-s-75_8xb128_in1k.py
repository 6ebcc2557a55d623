"""MoH-ViT-S-75, ImageNet-1K at 224.  Source: arXiv:2410.11842 and the authors' code (paper: 84.6 % top-1).
Here: not trained.  Needs: 8 GPUs with 40 GB (estimate).
Run: as moh-vit-s-80_8xb128_in1k.py."""

_base_ = "./moh-vit-s-80_8xb128_in1k.py"

model = dict(backbone=dict(model="moh_vit_s_75"))
