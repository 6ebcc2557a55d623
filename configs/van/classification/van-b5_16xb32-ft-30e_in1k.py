"""VAN-B5, ImageNet-22K weights fine-tuned on ImageNet-1K at 224.  Source: arXiv:2202.09741 (paper: 86.3 % top-1).
Here: not trained.  Needs: 16 GPUs with 40 GB (estimate).
Run: as van-b0_8xb128_in1k.py; fetches the weights pre-trained on ImageNet-22K (OpenMMLab's copy of them)."""

_base_ = "../../_base_/classification_in1k.py"

# The authors also scale the fresh head by 0.001 at the start; here it starts as the model initialises it.
model = dict(
    backbone=dict(model="van_b5.in21k", pretrained=True, drop_path_rate=0.2),
    train_cfg=None,  # neither mixup nor cutmix
)

# lr = 5e-5 for 16 devices * 32 images, no warm-up
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=5e-5, weight_decay=1e-8))
param_scheduler = [dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=512)
