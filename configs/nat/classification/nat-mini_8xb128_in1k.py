"""NAT-Mini, ImageNet-1K at 224.  Source: arXiv:2204.07143 and the authors' configuration (paper: 81.8 % top-1).
Here: not trained.  Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train nat-mini_8xb128_in1k --launcher pytorch"""

_base_ = "../../_base_/classification_in1k.py"

model = dict(backbone=dict(model="nat_mini", drop_path_rate=0.2))

# The authors' lr 1e-3 is for 128 images a device; how many devices they had isn't said. A cosine to 5e-6 over 300
# epochs, then 10 at that rate. They list rpb as free of decay, but the optimizer of their script doesn't read the list.
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=5e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=310)
