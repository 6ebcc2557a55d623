"""TransNeXt-Small in DINO with five levels, 12 epochs of multi-scale training on COCO.  Source: arXiv:2311.17132 and the
authors' detection code (repository: 56.6 box AP).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).
Run: as transnext-tiny_dino-4scale_8xb1-ms-12e_coco.py."""

_base_ = "./transnext-tiny_dino-5scale_8xb1-ms-12e_coco.py"

model = dict(backbone=dict(model="transnext_small.in1k", drop_path_rate=0.5))
