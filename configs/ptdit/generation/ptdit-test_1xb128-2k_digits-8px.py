"""A PT-DiT of 0.7 million parameters that draws the digits 0 to 9 in pixels, from scratch.
Run: backbones train ptdit-test_1xb128-2k_digits-8px"""

_base_ = "../../_base_/generation_runtime.py"

model = dict(
    type="DiffusionTrainer",
    # windows of the 4 x 4 patches
    generator=dict(model="test_ptdit", in_chans=1, num_classes=10, window_size=(1, 2, 2)),
    input_size=(8, 8),
)

# scikit-learn's scans as they are; the classification configs enlarge them
data_preprocessor = dict(type="ClsDataPreprocessor", num_classes=10, mean=[127.5], std=[127.5])
pipeline = [dict(type="LoadImageFromFile", color_type="grayscale"), dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # images this small are read faster than workers are fed
    dataset=dict(type="Digits", split="train", data_root="data/digits", pipeline=pipeline),
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=60,
    num_workers=0,
    dataset=dict(type="Digits", split="val", data_root="data/digits", pipeline=pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.0), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=2e-5, by_epoch=False, begin=50, end=2000),
]
train_cfg = dict(max_iters=2000, val_interval=250)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=250))
# averages over about 200 iterations; the usual 10,000 would still be the initial weights here
custom_hooks = [dict(type="EMAHook", momentum=0.005)]
randomness = dict(seed=0)
