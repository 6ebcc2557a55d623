"""iLLaMA-T in Mask R-CNN, 100 epochs on COCO.  Source: arXiv:2404.06773 for the network (paper: no such result);
pyramid, heads and recipe are ViTDet's (arXiv:2203.16527).  Here: not trained.
Needs: 8 GPUs with 24 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = [
    "../../_base_/models/mask-rcnn_sfp.py",
    "../../_base_/datasets/coco_lsj.py",
    "../../_base_/schedules/adamw_lsj-100e_coco.py",
    "../../_base_/detection_runtime.py",
]

neck = _base_.model.neck
neck[0].update(embed_dim=192)
neck[1].update(in_channels=[192] * 4)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # positions count tokens in raster order: one width for all images
    backbone=dict(model="illama_tiny.in1k", img_size=1024, out_indices=(2, 5, 8, 11), drop_path_rate=0.1),
    neck=neck,
)
train_dataloader = dict(batch_size=8)
