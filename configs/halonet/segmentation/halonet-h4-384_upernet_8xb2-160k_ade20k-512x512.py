"""HaloNet-H4 in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2103.12731 for the network (paper: no such
result), which reports no segmentation; the recipe is Swin's (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate), and weights of halonet-h4-384_8xb64_in1k-384px, since none are published.
Run: as halonet-h0-256_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./halonet-h0-256_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        model="halonet_h4_384",
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/halonet-h4-384_8xb64_in1k-384px/epoch_300.pth"),
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
