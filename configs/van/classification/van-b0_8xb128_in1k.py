"""VAN-B0, ImageNet-1K at 224.  Source: arXiv:2202.09741 and the authors' train.sh (paper: 75.4 % top-1).
Here: not trained.  Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train van-b0_8xb128_in1k --launcher pytorch"""

_base_ = "../../_base_/classification_in1k.py"

# VAN is normalised by 0.5 and cropped from 224 / 0.9 = 248, unlike most.
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
train_pipeline = _base_.train_pipeline
train_pipeline[1] = dict(  # the authors draw the interpolation for each image
    type="RandomChoice",
    transforms=[
        [dict(type="RandomResizedCrop", scale=224, backend="pillow", interpolation="bilinear")],
        [dict(type="RandomResizedCrop", scale=224, backend="pillow", interpolation="bicubic")],
    ],
)
train_pipeline[3].hparams.pad_val = [128] * 3
train_pipeline[4].update(fill_color=[127.5] * 3, fill_std=[127.5] * 3)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 248
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="van_b0", drop_path_rate=0.1))

# lr = 1e-3 for 8 devices * 128 images as in train.sh (the paper prints 5e-4); 300 epochs of cosine, 10 at the minimum
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=310)
