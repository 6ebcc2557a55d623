"""AttNet-T3, ImageNet-1K at 224.  Source: arXiv:2510.20092 and the authors' run file (paper: not at hand).
Here: not trained.  Needs: 64 GPUs with 24 GB (estimate).
Run: torchrun -m backbones train CONFIG --launcher pytorch, on as many nodes as have 64 GPUs, with this file as CONFIG"""

_base_ = "./attnet-t2_32xb128_in1k.py"

train_dataloader = dict(batch_size=64)
model = dict(backbone=dict(model="attnet_t3", drop_path_rate=0.4))
