# scikit-learn's scans of handwritten digits, written to data/digits on first use: 1,437 for training, 360 held out.
# They are 8x8 grey pixels; the pipeline enlarges them to 64x64.
data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=64,
        crop_ratio_range=(0.7, 1.0),
        aspect_ratio_range=(0.85, 1.18),
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # images this small are read faster than workers are fed
    dataset=dict(type="Digits", split="train", data_root="data/digits", pipeline=train_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=60,
    num_workers=0,
    dataset=dict(type="Digits", split="val", data_root="data/digits", pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
