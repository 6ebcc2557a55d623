"""An STViT of 0.2 million parameters on scanned digits, from scratch.
Run: python tools/train.py configs/stvit/classification/stvit-test_1xb32-10e_digits-64px.py"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_stvit"))
