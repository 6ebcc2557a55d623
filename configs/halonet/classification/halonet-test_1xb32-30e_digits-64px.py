"""A HaloNet of 0.1 million parameters on scanned digits, from scratch.
Run: backbones train halonet-test_1xb32-30e_digits-64px"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_halonet"))
train_cfg = dict(max_epochs=30)
