"""An STViT of 0.2 million parameters on scanned digits, from scratch.
Run: backbones train stvit-test_1xb32-10e_digits-64px"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_stvit"))
