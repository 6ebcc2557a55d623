"""An AttNet of 0.2 million parameters on scanned digits, from scratch.
Run: python tools/train.py configs/attnet/classification/attnet-test_1xb32-20e_digits-64px.py"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_attnet"))
train_cfg = dict(max_epochs=20)
