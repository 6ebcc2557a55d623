"""MoH-ViT-B-75, ImageNet-1K at 224.  Source: arXiv:2410.11842 and the authors' code (paper: 84.9 % top-1).
Here: not trained.  Needs: 8 GPUs with 48 GB (estimate).
Run: as moh-vit-s-80_8xb128_in1k.py."""

_base_ = "./moh-vit-s-80_8xb128_in1k.py"

model = dict(backbone=dict(model="moh_vit_b_75", drop_path_rate=0.6))
