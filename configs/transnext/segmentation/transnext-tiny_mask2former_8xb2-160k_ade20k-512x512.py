"""TransNeXt-Tiny in Mask2Former, 160,000 iterations on ADE20K.  Source: arXiv:2311.17132 and the authors' segmentation code
(repository: 53.4 mIoU).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = ["../../_base_/mask2former_ade20k.py", "../../_base_/schedules/transnext_slow_backbone.py"]

# The position bias is that of images of 512 x 512, interpolated.
model = dict(
    backbone=dict(model="transnext_tiny.in1k", drop_path_rate=0.3, pos_bias_size=512),
    decode_head=dict(in_channels=[72, 144, 288, 576]),
)
# lr = 1e-4, of the backbone 1e-5; neither biases nor norms nor positions decay
optim_wrapper = dict(paramwise_cfg=dict(bias_decay_mult=0.0, flat_decay_mult=0.0, custom_keys=_base_.slow_backbone))
