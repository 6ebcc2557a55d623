"""NAT-Small, ImageNet-1K at 224.  Source: arXiv:2204.07143 and the authors' configuration (paper: 83.7 % top-1).
Here: not trained.  Needs: 8 GPUs with 32 GB (estimate).  Run: as nat-mini_8xb128_in1k.py."""

_base_ = "./nat-mini_8xb128_in1k.py"

model = dict(backbone=dict(model="nat_small", drop_path_rate=0.3))
