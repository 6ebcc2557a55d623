"""Semantic FPN on a NAT of 0.2 million parameters: digits on photographs, from scratch.
Here: 51.2 mIoU, 6 minutes of one shared CPU core.
Run: backbones train nat-test_semfpn_1xb8-600i_digits-256x192"""

_base_ = ["../../_base_/models/semfpn_digits.py", "../../_base_/segmentation_digits.py"]

# Layer scales start at 1e-5, too low to be learnt in so few iterations.
model = dict(backbone=dict(model="test_nat", layer_scale=False), neck=dict(in_channels=[16, 32, 64, 96]))
train_cfg = dict(max_iters=600)
