"""UPerNet on what a PT-DiT of 0.7 million parameters computes at time 50: digits on photographs, from scratch.
Run: backbones train ptdit-test_upernet_1xb8-400i_digits-256x192"""

_base_ = ["../../_base_/models/upernet_digits.py", "../../_base_/segmentation_digits.py"]

# Patches of 8 x 8 pixels instead of 2 x 2 latents. All blocks have maps of one stride, from which a pyramid is made.
model = dict(
    backbone=dict(model="test_ptdit", in_chans=3, num_classes=0, patch_size=8, feature_timestep=50.0),
    neck=dict(type="Feature2Pyramid", embed_dim=64, rescales=[2, 1, 0.5, 0.25]),
    decode_head=dict(in_channels=[64] * 4),
    auxiliary_head=dict(in_channels=64),
)
