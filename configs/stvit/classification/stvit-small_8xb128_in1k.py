"""STViT-S, ImageNet-1K at 224.  Source: arXiv:2211.11167 and the authors' scripts (paper: 83.6 % top-1).
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "../../_base_/classification_in1k.py"

# The authors' readme says drop path 0.1, their script 0.3.
model = dict(backbone=dict(model="stvit_small", drop_path_rate=0.1))

# Three augmented copies of an image go to different devices, so an epoch shows a third of the images.
train_dataloader = dict(sampler=dict(_delete_=True, type="RepeatAugSampler"))

# lr = 5e-4 * (8 devices * 128 images) / 512 = 1e-3, warmed up from 1e-6 over 5 epochs, cosine to 1e-5
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
