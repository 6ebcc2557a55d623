"""TransNeXt-Tiny in DINO with four levels, 12 epochs of multi-scale training on COCO.  Source: arXiv:2311.17132 and the
authors' detection code (repository: 55.1 box AP).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = ["../../_base_/dino_coco.py", "../../_base_/schedules/transnext_slow_backbone.py"]

# The position bias is that of images of 800 x 800, interpolated.
model = dict(
    backbone=dict(model="transnext_tiny.in1k", drop_path_rate=0.3, pos_bias_size=800),
    neck=dict(in_channels=[144, 288, 576]),
)
# lr = 1e-4 for 8 devices * 1 image * 2 steps of accumulated gradients = 16
optim_wrapper = dict(
    optimizer=dict(betas=(0.9, 0.999), weight_decay=0.05),
    accumulative_counts=2,
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0, flat_decay_mult=0.0, custom_keys=_base_.slow_backbone),
)
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
