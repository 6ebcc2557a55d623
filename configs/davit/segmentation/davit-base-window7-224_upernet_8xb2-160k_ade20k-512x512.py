"""DaViT-Base in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2204.03645 and the authors' code
(repository: 49.4 mIoU, at one scale or several isn't said).  Here: not trained.
Needs: 8 GPUs with 40 GB (estimate).  Run: as davit-tiny-window7-224_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./davit-tiny-window7-224_upernet_8xb2-160k_ade20k-512x512.py"

# The authors' code states one drop path, Tiny's; a larger model may want more.
model = dict(
    backbone=dict(model="davit_base_window7_224"),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
