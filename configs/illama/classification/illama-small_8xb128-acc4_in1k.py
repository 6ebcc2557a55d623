"""iLLaMA-S, ImageNet-1K at 224.  Source: arXiv:2404.06773 and the authors' scripts (paper: 79.9 % top-1).
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate).  Run: as illama-tiny_8xb128-acc4_in1k.py."""

_base_ = "./illama-tiny_8xb128-acc4_in1k.py"

model = dict(
    backbone=dict(model="illama_small", drop_path_rate=0.1),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.5), dict(type="CutMix", alpha=0.5)]),
)
custom_hooks = [dict(type="SoftMaskHook", schedule="linear", cutoff_epoch=50)]
