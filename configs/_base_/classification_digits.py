"""Everything a digits run shares; a config adds the model and what it wants different.

From scratch on a processor in a few minutes: 45 iterations an epoch at batch 32.
"""

_base_ = ["./models/classifier.py", "./datasets/digits.py", "./default_runtime.py"]

model = dict(backbone=dict(num_classes=10))

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=1, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=15))
# averages over about 100 iterations; the usual 10,000 would still be the initial weights here
custom_hooks = [dict(type="EMAHook", momentum=0.01)]
randomness = dict(seed=0)
