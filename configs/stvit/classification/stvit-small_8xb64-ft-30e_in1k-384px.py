"""STViT-S, fine-tuned from 224 to 384 on ImageNet-1K.  Source: arXiv:2211.11167 (paper: 85.0 % top-1).
Here: not trained.  Needs: 8 GPUs with 24 GB (estimate), and the authors' stvit-small-224.pth in checkpoints/ (by hand
from the address in the metafile).  Run: as stvit-small_8xb128_in1k.py."""

_base_ = "./stvit-small_8xb128_in1k.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=384)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=384)  # the short side, nothing is cropped from it
test_pipeline[2].update(crop_size=384)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The authors fine-tune in evaluation mode: BatchNorm keeps its statistics, and no path is dropped.
model = dict(
    backbone=dict(
        drop_path_rate=0.0,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/stvit-small-224.pth"),
    )
)

# lr = 5e-6 * (8 devices * 64 images) / 512 = 5e-6 throughout
optim_wrapper = dict(optimizer=dict(lr=5e-6, weight_decay=1e-8))
param_scheduler = []
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=512)
