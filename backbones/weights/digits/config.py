custom_hooks = [
    dict(momentum=0.01, type="EMAHook"),
]
custom_imports = dict(
    allow_failed_imports=False,
    imports=[
        "backbones.mm.training",
    ],
)
data_preprocessor = dict(
    mean=[
        127.5,
        127.5,
        127.5,
    ],
    num_classes=10,
    std=[
        127.5,
        127.5,
        127.5,
    ],
    to_rgb=True,
)
default_hooks = dict(
    check_data=dict(type="CheckDataHook"),
    check_space=dict(type="CheckSpaceHook"),
    checkpoint=dict(backend_args=dict(backend="atomic"), interval=1, max_keep_ckpts=2, type="CheckpointHook"),
    finite_loss=dict(type="FiniteLossHook"),
    learning_curve=dict(type="LearningCurveHook"),
    logger=dict(interval=15, type="LoggerHook"),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    seed=dict(type="SeedHook"),
    timer=dict(type="IterTimerHook"),
)
default_scope = "mmpretrain"
env_cfg = dict(
    cudnn_benchmark=False, dist_cfg=dict(backend="nccl"), mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0)
)
launcher = "none"
load_from = None
log_level = "INFO"
model = dict(
    backbone=dict(model="test_van", num_classes=10, out_indices=None, type="ZooBackbone"),
    head=dict(loss=dict(label_smooth_val=0.1, mode="original", type="LabelSmoothLoss"), type="ClsHead"),
    train_cfg=dict(
        augments=[
            dict(alpha=0.8, type="Mixup"),
            dict(alpha=1.0, type="CutMix"),
        ]
    ),
    type="ImageClassifier",
)
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0),
    optimizer=dict(lr=0.001, type="AdamW", weight_decay=0.05),
    paramwise_cfg=dict(bias_decay_mult=0.0, flat_decay_mult=0.0, norm_decay_mult=0.0),
)
param_scheduler = [
    dict(begin=0, by_epoch=True, convert_to_iter_based=True, end=1, start_factor=0.01, type="LinearLR"),
    dict(begin=1, by_epoch=True, convert_to_iter_based=True, eta_min=1e-05, type="CosineAnnealingLR"),
]
randomness = dict(deterministic=False, seed=0)
resume = False
test_cfg = dict()
test_dataloader = dict(
    batch_size=60,
    dataset=dict(
        data_root="data/digits",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                backend="pillow",
                interpolation="bicubic",
                scale=(
                    64,
                    64,
                ),
                type="Resize",
            ),
            dict(type="PackInputs"),
        ],
        split="val",
        type="Digits",
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type="DefaultSampler"),
)
test_evaluator = dict(
    topk=(
        1,
        5,
    ),
    type="Accuracy",
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        backend="pillow",
        interpolation="bicubic",
        scale=(
            64,
            64,
        ),
        type="Resize",
    ),
    dict(type="PackInputs"),
]
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        dataset=dict(
            data_root="data/digits",
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(
                    aspect_ratio_range=(
                        0.85,
                        1.18,
                    ),
                    backend="pillow",
                    crop_ratio_range=(
                        0.7,
                        1.0,
                    ),
                    interpolation="bicubic",
                    scale=64,
                    type="RandomResizedCrop",
                ),
                dict(type="PackInputs"),
            ],
            split="train",
            type="Digits",
        ),
        seed=0,
        type="SeededDataset",
    ),
    num_workers=0,
    sampler=dict(sampler=dict(shuffle=True, type="DefaultSampler"), type="SeededSampler"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        aspect_ratio_range=(
            0.85,
            1.18,
        ),
        backend="pillow",
        crop_ratio_range=(
            0.7,
            1.0,
        ),
        interpolation="bicubic",
        scale=64,
        type="RandomResizedCrop",
    ),
    dict(type="PackInputs"),
]
val_cfg = dict()
val_dataloader = dict(
    batch_size=60,
    dataset=dict(
        data_root="data/digits",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                backend="pillow",
                interpolation="bicubic",
                scale=(
                    64,
                    64,
                ),
                type="Resize",
            ),
            dict(type="PackInputs"),
        ],
        split="val",
        type="Digits",
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type="DefaultSampler"),
)
val_evaluator = dict(
    topk=(
        1,
        5,
    ),
    type="Accuracy",
)
visualizer = dict(
    type="UniversalVisualizer",
    vis_backends=[
        dict(type="LocalVisBackend"),
        dict(type="TensorboardVisBackend"),
    ],
)
work_dir = "work_dirs/van-test_1xb32-20e_digits-64px"
