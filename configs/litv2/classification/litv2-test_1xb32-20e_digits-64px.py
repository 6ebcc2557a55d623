"""A LITv2 of 0.3 million parameters on scanned digits, from scratch.
Run: backbones train litv2-test_1xb32-20e_digits-64px"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_litv2"))
train_cfg = dict(max_epochs=20)
