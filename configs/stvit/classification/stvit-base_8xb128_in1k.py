"""STViT-B, ImageNet-1K at 224.  Source: arXiv:2211.11167 and the authors' scripts (paper: 84.8 % top-1).
Here: not trained.  Needs: 8 GPUs with 40 GB (estimate).  Run: as stvit-small_8xb128_in1k.py, whose recipe it is."""

_base_ = "./stvit-small_8xb128_in1k.py"

model = dict(backbone=dict(model="stvit_base", drop_path_rate=0.4))

# The authors' layer scale has four dimensions, which makes it decay like a matrix.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"gamma": dict(decay_mult=1.0)}))
