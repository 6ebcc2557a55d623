"""SG-Former-M in Mask R-CNN, 12 epochs on COCO.  Source: arXiv:2308.12216 (paper, as arXiv:2405.07992 quotes it:
48.2 box AP, 43.6 mask AP); its recipe isn't public, this is Swin's (arXiv:2103.14030).  Here: not trained.
Needs: 8 GPUs with 32 GB (estimate).  Run: as sgformer-s_mask-rcnn-fpn_8xb2-1x_coco.py."""

_base_ = "./sgformer-s_mask-rcnn-fpn_8xb2-1x_coco.py"

model = dict(backbone=dict(model="sgformer_m.in1k", drop_path_rate=0.2))
