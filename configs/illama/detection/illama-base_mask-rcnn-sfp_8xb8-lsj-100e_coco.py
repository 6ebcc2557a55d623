"""iLLaMA-B in Mask R-CNN, 100 epochs on COCO.  Source: arXiv:2404.06773 for the network (paper: no such result);
pyramid, heads and recipe are ViTDet's (arXiv:2203.16527).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).  Run: as illama-tiny_mask-rcnn-sfp_8xb8-lsj-100e_coco.py."""

_base_ = "./illama-tiny_mask-rcnn-sfp_8xb8-lsj-100e_coco.py"

neck = _base_.model.neck
neck[0].update(embed_dim=768)
neck[1].update(in_channels=[768] * 4)
model = dict(backbone=dict(model="illama_base.in1k"), neck=neck)
