"""RetinaNet on a VAN of 0.2 million parameters: digits on photographs, from scratch.
Here: 74.0 box AP at IoU 0.5 (55.4 over all thresholds), 4 minutes of one processor core.
Run: backbones train van-test_retinanet-fpn_1xb8-400i_digits-256x192"""

_base_ = ["../../_base_/models/retinanet_digits.py", "../../_base_/detection_digits.py"]

model = dict(backbone=dict(model="test_van"), neck=dict(in_channels=[16, 32, 48, 64]))
