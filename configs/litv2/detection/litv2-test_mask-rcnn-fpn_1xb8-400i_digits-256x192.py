"""Mask R-CNN on a LITv2 of 0.3 million parameters: digits on photographs, from scratch.
Here: 92.9 box AP at IoU 0.5 (73.7 over all thresholds), 94.7 mask AP at IoU 0.5 (72.7), 10 minutes of one processor core.
Run: backbones train litv2-test_mask-rcnn-fpn_1xb8-400i_digits-256x192"""

_base_ = ["../../_base_/models/mask-rcnn_digits.py", "../../_base_/detection_digits.py"]

model = dict(backbone=dict(model="test_litv2"), neck=dict(in_channels=[16, 32, 64, 96]))
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator
