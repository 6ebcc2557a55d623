"""HaloNet-H4, ImageNet-1K at 384.  Source: arXiv:2103.12731 (paper: 83.3 % top-1); recipe as H0's.
Here: not trained.  Needs: 8 GPUs with 40 GB (estimate).  Run: as halonet-h0-256_8xb128_in1k-256px.py."""

_base_ = "./halonet-h0-256_8xb128_in1k-256px.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=384)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=404)  # 384 / 0.95
test_pipeline[2].update(crop_size=384)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="halonet_h4_384", drop_path_rate=0.2))

# lr = 1e-3 * (8 devices * 64 images) / 1024
optim_wrapper = dict(optimizer=dict(lr=0.0005))
auto_scale_lr = dict(base_batch_size=512)
