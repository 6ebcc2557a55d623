"""LITv2-S, ImageNet-1K at 224.  Source: arXiv:2205.13213 and the authors' configuration (paper: 82.0 % top-1).
Here: not trained.  Needs: 8 GPUs with 16 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train litv2-s_8xb128_in1k --launcher pytorch"""

_base_ = "../../_base_/classification_in1k.py"

model = dict(backbone=dict(model="litv2_s", drop_path_rate=0.2))

# lr = 5e-4 * (8 devices * 128 images) / 512 = 1e-3.  The weights that predict the sampling offsets learn at a
# hundredth of it, their biases at the full rate.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"offset.weight": dict(lr_mult=0.01)}), clip_grad=dict(max_norm=5.0)
)
