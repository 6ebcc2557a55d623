# 80,000 iterations of AdamW for 8 devices x 2 images, as Semantic FPN is trained.
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80000, val_interval=8000)
auto_scale_lr = dict(base_batch_size=16)
