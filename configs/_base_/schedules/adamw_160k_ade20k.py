# 160,000 iterations of AdamW for 8 devices x 2 images, as Swin trains UPerNet.
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=1500),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
auto_scale_lr = dict(base_batch_size=16)
