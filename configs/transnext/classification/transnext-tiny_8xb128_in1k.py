"""TransNeXt-Tiny, ImageNet-1K at 224.  Source: arXiv:2311.17132 and the authors' code (paper: 84.0 % top-1).
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "./transnext-micro_8xb128_in1k.py"

model = dict(backbone=dict(model="transnext_tiny", drop_path_rate=0.25))
