"""HaloNet-H0, ImageNet-1K at 256.  Source: arXiv:2103.12731 for the network (paper: 77.9 % top-1); its training
recipe is not public, so this is the AdamW recipe of the zoo's other families, drop path growing with the model.
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "../../_base_/classification_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=256)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=269)  # 256 / 0.95
test_pipeline[2].update(crop_size=256)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="halonet_h0_256", drop_path_rate=0.1))
