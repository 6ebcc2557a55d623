"""iLLaMA-B, fine-tuned from 224 to 384 on ImageNet-1K.  Source: arXiv:2404.06773 (paper: 83.0 % top-1).
Here: not trained.  Needs: 8 GPUs with 80 GB (estimate).  Run: as illama-tiny_8xb128-acc4_in1k.py; fetches the weights
trained at 224, whose position table is resized."""

_base_ = "../../_base_/classification_in1k.py"

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

# neither mixup nor cutmix; the mask is causal from the start
model = dict(
    backbone=dict(model="illama_base.in1k", pretrained=True, img_size=384, drop_path_rate=0.8),
    train_cfg=None,
)

# lr = 8e-5 for 8 devices * 64 images, no warm-up
optim_wrapper = dict(
    optimizer=dict(lr=8e-5, weight_decay=1e-8),
    paramwise_cfg=dict(custom_keys={"cls_token": dict(decay_mult=0.0), "pos_embed": dict(decay_mult=0.0)}),
)
param_scheduler = [dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=512)
