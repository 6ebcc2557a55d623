"""An SG-Former of 0.25 million parameters on scanned digits, from scratch.
Run: backbones train sgformer-test_1xb32-20e_digits-64px"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_sgformer", img_size=64))
train_cfg = dict(max_epochs=20)
