"""AttNet-T2, ImageNet-1K at 224.  Source: arXiv:2510.20092 and the authors' run file (paper: 84.4 % top-1).
Here: not trained.  Needs: 32 GPUs with 24 GB (estimate).
Run: torchrun -m backbones train CONFIG --launcher pytorch, on as many nodes as have 32 GPUs, with this file as CONFIG"""

_base_ = "../../_base_/classification_in1k.py"

model = dict(backbone=dict(model="attnet_t2", drop_path_rate=0.2))

# Three augmented copies of an image go to different devices, so an epoch shows a third of the images.
train_dataloader = dict(batch_size=128, sampler=dict(_delete_=True, type="RepeatAugSampler"))

# lr = 4e-3 for 32 devices * 128 images = 4096, warmed up from 1e-6 over 5 epochs, cosine to 1e-6. The authors' training
# loop clips no gradient, whatever its options say, and evaluates the weights themselves, not their averages.
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=2.5e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4096)
