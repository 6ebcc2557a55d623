# ViTDet's 100 epochs of AdamW for 8 devices x 8 images, with layer-wise decay.
_base_ = "./adamw_1x_coco.py"

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.1),
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.7, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type="MultiStepLR", by_epoch=True, milestones=[89, 96], gamma=0.1),
]
train_cfg = dict(max_epochs=100, val_interval=5)
auto_scale_lr = dict(base_batch_size=64)
