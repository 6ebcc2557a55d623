"""VAN-B6, ImageNet-22K weights fine-tuned on ImageNet-1K at 224.  Source: arXiv:2202.09741 (paper: 86.9 % top-1).
Here: not trained.  Needs: 16 GPUs with 80 GB (estimate).  Run: as van-b5_16xb32-ft-30e_in1k.py, whose recipe it is."""

_base_ = "./van-b5_16xb32-ft-30e_in1k.py"

model = dict(backbone=dict(model="van_b6.in21k", drop_path_rate=0.3))
