"""SG-Former-M, ImageNet-1K at 224.  Source: arXiv:2308.12216 (paper: 84.1 % top-1), the number as
arXiv:2405.07992 quotes it.  Here: not trained.  Needs: 8 GPUs with 48 GB (estimate).  Run: as sgformer-s_8xb128_in1k.py, whose recipe it is."""

_base_ = "./sgformer-s_8xb128_in1k.py"

model = dict(backbone=dict(model="sgformer_m", drop_path_rate=0.2))
