"""HaloNet-H5, ImageNet-1K at 448.  Source: arXiv:2103.12731 (paper: 84.0 % top-1); recipe as H0's.
Here: not trained.  Needs: 8 GPUs with 40 GB (estimate).  Run: as halonet-h0-256_8xb128_in1k-256px.py."""

_base_ = "./halonet-h0-256_8xb128_in1k-256px.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=448)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=471)  # 448 / 0.95
test_pipeline[2].update(crop_size=448)
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="halonet_h5_448", drop_path_rate=0.3))

# lr = 1e-3 * (8 devices * 32 images) / 1024
optim_wrapper = dict(optimizer=dict(lr=0.00025))
auto_scale_lr = dict(base_batch_size=256)
