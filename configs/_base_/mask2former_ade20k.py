"""MMSegmentation's Mask2Former around a pretrained model of the zoo, 160,000 iterations on ADE20K, with our runtime.

A config adds backbone.model, decode_head.in_channels and what its paper does otherwise.
"""

_base_ = "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py"

custom_imports = dict(_delete_=True, imports=["mmdet.models", "backbones.mm.training"], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True))
default_hooks = dict(
    checkpoint=dict(interval=8000, max_keep_ckpts=2, backend_args=dict(backend="atomic")),
    check_data=dict(type="CheckDataHook"),
    check_space=dict(type="CheckSpaceHook"),
    finite_loss=dict(type="FiniteLossHook"),
    seed=dict(type="SeedHook"),
    learning_curve=dict(type="LearningCurveHook"),
)
train_cfg = dict(val_interval=16000)
visualizer = dict(alpha=0.6)
