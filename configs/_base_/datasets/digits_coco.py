# Scanned digits on photographs with boxes and masks, written to data/digit_scenes on first use: 800 scenes for training,
# 100 for validation with other digits on other backgrounds.
data_root = "data/digit_scenes"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(256, 192)),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 192)),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),  # as large as the image was
    dict(type="PackDetInputs"),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # images this small are read faster than workers are fed
    dataset=dict(type="DigitScenes", task="detection", split="train", data_root=data_root, pipeline=train_pipeline),
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    dataset=dict(
        type="DigitScenes",
        task="detection",
        split="val",
        data_root=data_root,
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file=f"{data_root}/annotations/val.json", metric="bbox")
test_evaluator = val_evaluator
