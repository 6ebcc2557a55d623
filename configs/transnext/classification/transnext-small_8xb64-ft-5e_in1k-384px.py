"""TransNeXt-Small, fine-tuned from 224 to 384 on ImageNet-1K.  Source: arXiv:2311.17132 (paper: 86.0 % top-1) and
the authors' code, without their batch.  Here: not trained.  Needs: 8 GPUs with 80 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "./transnext-small_8xb128_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=384)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(384, 384), backend="pillow", interpolation="bicubic"),  # the whole image, no crop
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Mixup, but no CutMix
model = dict(
    backbone=dict(model="transnext_small.in1k", pretrained=True, drop_path_rate=0.7),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8)]),
)

optim_wrapper = dict(optimizer=dict(lr=1e-5))  # throughout
param_scheduler = []
train_cfg = dict(max_epochs=5)
auto_scale_lr = dict(base_batch_size=512)
