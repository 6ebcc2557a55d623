"""PT-DiT/S-Class on latents of ImageNet-1K at 256 x 256.
Source: arXiv:2409.04005, ablations (paper: FID-50K 19.30). Here: not trained.
Needs: latents of backbones encode-latents (docs/generation.md).
Run: torchrun --nproc_per_node 8 -m backbones train ptdit-s_8xb32-400k_in1k-256px --launcher pytorch"""

_base_ = "../../_base_/generation_runtime.py"

# The autoencoder, weight decay, average and share of hidden classes are DiT's; the paper does not tell its own.
autoencoder = "stabilityai/sd-vae-ft-ema"
model = dict(
    type="DiffusionTrainer",
    generator=dict(model="ptdit_s_class", in_chans=4, num_classes=1000),
    input_size=(32, 32),
    drop_rate=0.1,
    shift=0.5,  # of 256 x 256 pixels
)

data_preprocessor = dict(type="ClsDataPreprocessor", num_classes=1000)
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(type="LatentImages", data_root="data/imagenet_latents", split="train"),
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(type="LatentImages", data_root="data/imagenet_latents", split="val", test_mode=True),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.0))
train_cfg = dict(max_iters=400_000, val_interval=10_000)
auto_scale_lr = dict(base_batch_size=256)
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=10_000),
    sample_grid=dict(guidance=6.0, steps=50, autoencoder=autoencoder),  # as in the paper
)
