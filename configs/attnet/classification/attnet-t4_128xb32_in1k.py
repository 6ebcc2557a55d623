"""AttNet-T4, ImageNet-1K at 224.  Source: arXiv:2510.20092 and the authors' run file (paper: not at hand).
Here: not trained.  Needs: 128 GPUs with 24 GB (estimate).
Run: torchrun -m backbones train CONFIG --launcher pytorch, on as many nodes as have 128 GPUs, with this file as CONFIG"""

_base_ = "./attnet-t2_32xb128_in1k.py"

train_dataloader = dict(batch_size=32)
model = dict(backbone=dict(model="attnet_t4", drop_path_rate=0.5))
