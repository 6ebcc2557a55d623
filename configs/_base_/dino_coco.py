"""MMDetection's DINO with four levels around a pretrained model of the zoo, 12 epochs on COCO, with our runtime.

A config adds backbone.model, neck.in_channels and what its paper does otherwise.
"""

_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"

custom_imports = dict(imports=["backbones.mm.training"], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, type="ZooBackbone", pretrained=True, out_indices=(1, 2, 3)))
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=2, backend_args=dict(backend="atomic")),
    check_data=dict(type="CheckDataHook"),
    check_space=dict(type="CheckSpaceHook"),
    finite_loss=dict(type="FiniteLossHook"),
    seed=dict(type="SeedHook"),
    learning_curve=dict(type="LearningCurveHook"),
)
