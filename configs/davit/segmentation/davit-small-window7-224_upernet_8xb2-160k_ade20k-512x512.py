"""DaViT-Small in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2204.03645 and the authors' code
(repository: 48.8 mIoU, at one scale or several isn't said).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as davit-tiny-window7-224_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./davit-tiny-window7-224_upernet_8xb2-160k_ade20k-512x512.py"

# The authors' code states one drop path, Tiny's; a larger model may want more.
model = dict(backbone=dict(model="davit_small_window7_224"))
