"""TransNeXt-Small in UPerNet, 160,000 iterations on ADE20K.  Source: arXiv:2311.17132 and the authors' segmentation code
(repository: 52.2 mIoU; at several scales 52.5 with the position bias interpolated, 52.8 extrapolated).
Here: not trained.  Needs: 8 GPUs with 32 GB (estimate).
Run: as transnext-tiny_upernet_8xb2-160k_ade20k-512x512.py."""

_base_ = "./transnext-tiny_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="transnext_small.in1k", drop_path_rate=0.6))
