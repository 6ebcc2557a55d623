"""HaloNet-H2 in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2103.12731 for the network (paper: no such
result), which reports no segmentation; the recipe is Swin's (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate), and weights of halonet-h2-256_8xb128_in1k-256px, since none are published.
Run: as halonet-h0-256_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./halonet-h0-256_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        model="halonet_h2_256",
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/halonet-h2-256_8xb128_in1k-256px/epoch_300.pth"),
    ),
    decode_head=dict(in_channels=[80, 160, 320, 640]),
    auxiliary_head=dict(in_channels=320),
)
