"""TransNeXt-Base, fine-tuned from 224 to 384 on ImageNet-1K.  Source: arXiv:2311.17132 (paper: 86.2 % top-1) and
the authors' code, without their batch.  Here: not trained.  Needs: 8 GPUs with 80 GB (estimate).
Run: as transnext-small_8xb64-ft-5e_in1k-384px.py."""

_base_ = "./transnext-small_8xb64-ft-5e_in1k-384px.py"

model = dict(backbone=dict(model="transnext_base.in1k", drop_path_rate=0.8))
