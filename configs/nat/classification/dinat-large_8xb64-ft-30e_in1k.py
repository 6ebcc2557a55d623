"""DiNAT-Large, fine-tuned on ImageNet-1K at 224 from weights of ImageNet-22K, whose training was not published.
Source: arXiv:2209.15001 and the authors' configuration (paper: 86.6 % top-1).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train dinat-large_8xb64-ft-30e_in1k --launcher pytorch"""

_base_ = "../../_base_/classification_in1k.py"

model = dict(backbone=dict(model="dinat_large.in22k", pretrained=True, drop_path_rate=0.35), train_cfg=None)
train_dataloader = dict(batch_size=64)

# lr 5e-5 for 64 images a device; how many devices the authors had isn't said. It falls linearly, without warm-up.
optim_wrapper = dict(optimizer=dict(lr=5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=True, begin=0, end=30, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=512)
