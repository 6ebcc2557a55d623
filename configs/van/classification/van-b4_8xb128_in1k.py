"""VAN-B4, ImageNet-1K at 224.  Source: arXiv:2202.09741 (paper: 84.2 % top-1).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as van-b0_8xb128_in1k.py, whose recipe it is."""

_base_ = "./van-b0_8xb128_in1k.py"

model = dict(backbone=dict(model="van_b4", drop_path_rate=0.2))  # the authors do not state B4's rate; this is B3's
