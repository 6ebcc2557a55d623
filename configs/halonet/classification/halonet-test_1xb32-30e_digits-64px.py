"""A HaloNet of 0.1 million parameters on scanned digits, from scratch.
Run: python tools/train.py configs/halonet/classification/halonet-test_1xb32-30e_digits-64px.py"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_halonet"))
train_cfg = dict(max_epochs=30)
