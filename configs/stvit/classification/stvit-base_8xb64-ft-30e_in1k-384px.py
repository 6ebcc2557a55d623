"""STViT-B, fine-tuned from 224 to 384 on ImageNet-1K.  Source: arXiv:2211.11167 (paper: 86.0 % top-1).
Here: not trained.  Needs: 8 GPUs with 48 GB (estimate), and the authors' stvit-base-224.pth in checkpoints/.
Run: as stvit-small_8xb64-ft-30e_in1k-384px.py, whose recipe it is."""

_base_ = "./stvit-small_8xb64-ft-30e_in1k-384px.py"

model = dict(backbone=dict(model="stvit_base", init_cfg=dict(checkpoint="checkpoints/stvit-base-224.pth")))

# The authors' layer scale has four dimensions, which makes it decay like a matrix.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"gamma": dict(decay_mult=1.0)}))
