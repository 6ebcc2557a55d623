"""DiNAT_s-Large, fine-tuned on ImageNet-1K at 384 from weights of ImageNet-22K at 224.
Source: arXiv:2209.15001 and the authors' configuration (paper: 87.4 % top-1).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as dinat-large_8xb64-ft-30e_in1k.py."""

_base_ = "./dinat-large-384_8xb64-ft-30e_in1k-384px.py"

model = dict(backbone=dict(model="dinat_s_large_384.in22k"))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-5))
