# AdamW from scratch for a few hundred iterations: a cosine over train_cfg.max_iters, of which 30 warm up.
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=400, val_interval=100)
val_cfg = dict()
test_cfg = dict()
log_processor = dict(by_epoch=False)
