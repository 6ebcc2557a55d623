"""TransNeXt-Base in Mask2Former, 160,000 iterations on ADE20K.  Source: arXiv:2311.17132 and the authors' segmentation code
(repository: 54.7 mIoU).  Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "../../_base_/mask2former_ade20k.py"

# The position bias is that of images of 512 x 512, interpolated.
model = dict(
    backbone=dict(model="transnext_base.in1k", drop_path_rate=0.6, pos_bias_size=512),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
# lr = 1e-4, of the backbone 1e-5; neither biases nor norms nor positions decay
undecayed = dict(lr_mult=0.1, decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "query_embedding": undecayed,
            "rpb": undecayed,
            "pos_bias": undecayed,
            "temperature": undecayed,
        },
        bias_decay_mult=0.0,
    )
)
