"""AttNet-S, ImageNet-1K at 224.  Source: arXiv:2510.20092 and the authors' run file (paper: not at hand).
Here: not trained.  Needs: 32 GPUs with 12 GB (estimate).
Run: torchrun -m backbones train CONFIG --launcher pytorch, on as many nodes as have 32 GPUs, with this file as CONFIG"""

_base_ = "./attnet-t2_32xb128_in1k.py"

train_pipeline = _base_.train_pipeline
del train_pipeline[4]  # no erasing
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

model = dict(
    backbone=dict(model="attnet_s", drop_path_rate=0.05),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.3), dict(type="CutMix", alpha=1.0)]),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.025))
