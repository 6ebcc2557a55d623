"""iLLaMA-T, ImageNet-1K at 224.  Source: arXiv:2404.06773 and the authors' scripts (paper: 75.0 % top-1).
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train illama-tiny_8xb128-acc4_in1k
--launcher pytorch"""

_base_ = "../../_base_/classification_in1k.py"

model = dict(
    backbone=dict(model="illama_tiny"),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.1), dict(type="CutMix", alpha=0.1)]),
)

# lr = 4e-3 for 8 devices * 128 images * 4 accumulated batches = 4096; no gradient clipping
optim_wrapper = dict(
    optimizer=dict(lr=4e-3),
    accumulative_counts=4,
    paramwise_cfg=dict(custom_keys={"cls_token": dict(decay_mult=0.0), "pos_embed": dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type="SoftMaskHook", schedule="constant", cutoff_epoch=50)]
