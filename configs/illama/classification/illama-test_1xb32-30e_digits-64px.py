"""An iLLaMA of 0.4 million parameters on scanned digits, from scratch.
Run: backbones train illama-test_1xb32-30e_digits-64px"""

_base_ = "../../_base_/classification_digits.py"

model = dict(backbone=dict(model="test_illama", img_size=64))
train_cfg = dict(max_epochs=30)
custom_hooks = [*_base_.custom_hooks, dict(type="SoftMaskHook", schedule="linear", cutoff_epoch=5)]
