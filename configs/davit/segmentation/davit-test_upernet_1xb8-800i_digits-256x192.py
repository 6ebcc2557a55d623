"""UPerNet on a DaViT of 0.3 million parameters: digits on photographs, from scratch.
Here: 70.7 mIoU, 15 minutes of one shared processor core.
Run: backbones train davit-test_upernet_1xb8-800i_digits-256x192"""

_base_ = ["../../_base_/models/upernet_digits.py", "../../_base_/segmentation_digits.py"]

model = dict(
    backbone=dict(model="test_davit"),
    decode_head=dict(in_channels=[16, 32, 48, 64]),
    auxiliary_head=dict(in_channels=48),
)
train_cfg = dict(max_iters=800)
