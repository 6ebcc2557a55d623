"""DiNAT-Large, fine-tuned on ImageNet-1K at 384 from weights of ImageNet-22K at 224, with dilations 13, 6 and 3.
Source: arXiv:2209.15001 and the authors' configuration (paper: 87.4 % top-1).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as dinat-large_8xb64-ft-30e_in1k.py."""

_base_ = "./dinat-large_8xb64-ft-30e_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=384)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=384, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=384),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="dinat_large_384.in22k"))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-10))
