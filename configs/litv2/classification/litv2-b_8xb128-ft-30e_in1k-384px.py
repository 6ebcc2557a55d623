"""LITv2-B, fine-tuned from 224 to 384 on ImageNet-1K.  Source: arXiv:2205.13213 (paper: 84.7 % top-1).
Here: not trained.  Needs: 8 GPUs with 80 GB (estimate).  Run: as litv2-s_8xb128_in1k.py."""

_base_ = "./litv2-b_8xb128_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=384)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(384, 384), backend="pillow", interpolation="bicubic"),  # the whole image, no crop
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="litv2_b.in1k", pretrained=True))

# lr = 2e-5 * (8 devices * 128 images) / 512 = 4e-5, warmed up from 4e-8 over 5 epochs, cosine to 4e-7
optim_wrapper = dict(optimizer=dict(lr=4e-5, weight_decay=1e-8))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=4e-7, by_epoch=True, begin=5, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30)
