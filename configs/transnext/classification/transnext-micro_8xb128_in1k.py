"""TransNeXt-Micro, ImageNet-1K at 224.  Source: arXiv:2311.17132 and the authors' code (paper: 82.5 % top-1).
Here: not trained.  Needs: 8 GPUs with 12 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "../../_base_/classification_in1k.py"

model = dict(backbone=dict(model="transnext_micro", drop_path_rate=0.15))

# Three augmented copies of an image go to different devices, so an epoch shows a third of the images.
train_dataloader = dict(sampler=dict(_delete_=True, type="RepeatAugSampler"))

# lr = 1e-3 for 8 devices * 128 images = 1024, warmed up from 1e-6 over 5 epochs, cosine to 1e-5
optim_wrapper = dict(
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        custom_keys={
            "query_embedding": dict(decay_mult=0.0),
            "rpb": dict(decay_mult=0.0),
            "pos_bias": dict(decay_mult=0.0),
            "temperature": dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
