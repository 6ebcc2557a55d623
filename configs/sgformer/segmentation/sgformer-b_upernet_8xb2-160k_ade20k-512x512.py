"""SG-Former-B in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2308.12216 (paper, as arXiv:2405.07992 quotes
it: 52.0 mIoU at one scale, 52.7 at several); its recipe isn't public, this is Swin's (arXiv:2103.14030).
Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).  Run: as sgformer-s_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./sgformer-s_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="sgformer_b.in1k", drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
