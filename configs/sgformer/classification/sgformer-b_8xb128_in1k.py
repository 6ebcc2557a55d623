"""SG-Former-B, ImageNet-1K at 224.  Source: arXiv:2308.12216 (paper: 84.7 % top-1).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as sgformer-s_8xb128_in1k.py, whose recipe it is."""

_base_ = "./sgformer-s_8xb128_in1k.py"

model = dict(backbone=dict(model="sgformer_b", drop_path_rate=0.4))
