"""HaloNet-H1, ImageNet-1K at 256.  Source: arXiv:2103.12731 (paper: 79.9 % top-1); recipe as H0's.
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).  Run: as halonet-h0-256_8xb128_in1k-256px.py."""

_base_ = "./halonet-h0-256_8xb128_in1k-256px.py"

model = dict(backbone=dict(model="halonet_h1_256", drop_path_rate=0.1))
