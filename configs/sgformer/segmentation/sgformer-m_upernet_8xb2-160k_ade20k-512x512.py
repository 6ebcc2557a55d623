"""SG-Former-M in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2308.12216 (paper, as arXiv:2405.07992 quotes
it: 51.2 mIoU at one scale, 52.1 at several); its recipe isn't public, this is Swin's (arXiv:2103.14030).
Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as sgformer-s_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./sgformer-s_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="sgformer_m.in1k", drop_path_rate=0.2))
