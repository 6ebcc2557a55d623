"""An AttNet of 0.2 million parameters on scanned digits, from scratch.
Run: backbones train attnet-test_1xb32-20e_digits-64px"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_attnet"))
train_cfg = dict(max_epochs=20)
