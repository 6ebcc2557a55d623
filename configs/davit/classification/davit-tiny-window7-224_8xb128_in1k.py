"""DaViT-Tiny, ImageNet-1K at 224.  Source: arXiv:2204.03645 and the authors' train.py (paper: 82.8 % top-1).
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "../../_base_/classification_in1k.py"

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 235  # 224 / 0.95, as timm evaluates the published weights; the authors crop from 224 / 0.9
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(model="davit_tiny_window7_224", drop_path_rate=0.1))

# lr = 1e-3 for 8 devices * 128 images; 300 epochs with 5 of warm-up, then 10 at the minimum
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=310)
