# The scenes of digits_coco.py as label maps: background and ten digits.
data_root = "data/digit_scenes"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(256, 192)),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 192)),
    dict(type="LoadAnnotations"),  # as large as the image was
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # images this small are read faster than workers are fed
    dataset=dict(type="DigitScenes", task="segmentation", split="train", data_root=data_root, pipeline=train_pipeline),
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    dataset=dict(type="DigitScenes", task="segmentation", split="val", data_root=data_root, pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
