"""SG-Former-S, ImageNet-1K at 224.  Source: arXiv:2308.12216 and the authors' main.py (paper: 83.2 % top-1),
the number as arXiv:2405.07992 quotes it.  Here: not trained.  Needs: 8 GPUs with 32 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train sgformer-s_8xb128_in1k
--launcher pytorch"""

_base_ = "../../_base_/classification_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1] = dict(  # the authors draw the interpolation for each image
    type="RandomChoice",
    transforms=[
        [dict(type="RandomResizedCrop", scale=224, backend="pillow", interpolation="bilinear")],
        [dict(type="RandomResizedCrop", scale=224, backend="pillow", interpolation="bicubic")],
    ],
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 248  # 224 / 0.9
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="sgformer_s", drop_path_rate=0.1))

# The position table decays, as the authors' did: it is a matrix, and not on their list of exceptions.
# 300 epochs of cosine, 10 at the minimum; the averaged weights are the ones evaluated and published
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=310)
custom_hooks = [dict(type="EMAHook", momentum=8e-5)]  # 1 - 0.99992
