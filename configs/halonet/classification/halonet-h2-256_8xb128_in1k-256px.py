"""HaloNet-H2, ImageNet-1K at 256.  Source: arXiv:2103.12731 (paper: 80.4 % top-1); recipe as H0's.
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).  Run: as halonet-h0-256_8xb128_in1k-256px.py."""

_base_ = "./halonet-h0-256_8xb128_in1k-256px.py"

model = dict(backbone=dict(model="halonet_h2_256", drop_path_rate=0.1))
