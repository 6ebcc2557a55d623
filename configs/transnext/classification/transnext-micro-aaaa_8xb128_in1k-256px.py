"""TransNeXt-Micro with aggregated attention in every stage, ImageNet-1K at 256.
Source: arXiv:2311.17132, Table 9, and the authors' code (paper: 82.6 % top-1).  Here: not trained.
Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "./transnext-micro_8xb128_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=256)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=292)  # 256 / 0.875
test_pipeline[2].update(crop_size=256)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="transnext_micro_aaaa"))
