"""iLLaMA-B, ImageNet-1K at 224.  Source: arXiv:2404.06773 and the authors' scripts (paper: 81.6 % top-1).
Here: not trained.  Needs: 8 GPUs with 40 GB (estimate).  Run: as illama-tiny_8xb128-acc4_in1k.py."""

_base_ = "./illama-tiny_8xb128-acc4_in1k.py"

model = dict(
    backbone=dict(model="illama_base", drop_path_rate=0.4),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.95), dict(type="CutMix", alpha=1.0)]),
)
# a longer warm-up than the smaller sizes
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=50, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=50, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type="SoftMaskHook", schedule="linear", cutoff_epoch=25)]
