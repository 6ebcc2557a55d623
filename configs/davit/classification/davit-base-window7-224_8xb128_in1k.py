"""DaViT-Base, ImageNet-1K at 224.  Source: arXiv:2204.03645 (paper: 84.6 % top-1).  Here: not trained.
Needs: 8 GPUs with 48 GB (estimate).  Run: as davit-tiny-window7-224_8xb128_in1k.py, whose recipe it is."""

_base_ = "./davit-tiny-window7-224_8xb128_in1k.py"

# The authors' code states one drop path, Tiny's; a larger model may want more.
model = dict(backbone=dict(model="davit_base_window7_224"))
