"""LITv2-B, ImageNet-1K at 224.  Source: arXiv:2205.13213 (paper: 83.6 % top-1).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as litv2-s_8xb128_in1k.py, whose recipe it is."""

_base_ = "./litv2-s_8xb128_in1k.py"

model = dict(backbone=dict(model="litv2_b", drop_path_rate=0.5))
