"""MoH-ViT-B-50, ImageNet-1K at 224.  Source: arXiv:2410.11842 and the authors' code (paper: 84.7 % top-1).
Here: not trained.  Needs: 8 GPUs with 48 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "./transnext-micro_8xb128_in1k.py"

model = dict(backbone=dict(model="moh_vit_b_50", drop_path_rate=0.6))
custom_hooks = [dict(type="HeadBalanceHook", weight=0.01)]  # tokens are to use all heads
