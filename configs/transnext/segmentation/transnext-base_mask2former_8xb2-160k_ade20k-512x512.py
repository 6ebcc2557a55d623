"""TransNeXt-Base in Mask2Former, 160,000 iterations on ADE20K.  Source: arXiv:2311.17132 and the authors' segmentation code
(repository: 54.7 mIoU).  Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).
Run: as transnext-tiny_mask2former_8xb2-160k_ade20k-512x512.py."""

_base_ = "./transnext-tiny_mask2former_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="transnext_base.in1k", drop_path_rate=0.6),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
