"""Semantic FPN on a VAN of 0.2 million parameters: digits on photographs, from scratch.
Run: python tools/train.py configs/van/segmentation/van-test_semfpn_1xb8-400i_digits-256x192.py"""

_base_ = ["../../_base_/models/semfpn_digits.py", "../../_base_/segmentation_digits.py"]

model = dict(backbone=dict(model="test_van"), neck=dict(in_channels=[16, 32, 48, 64]))
