# What every run shares. MMPretrain's scope; detection and segmentation configs set their own.
default_scope = "mmpretrain"
custom_imports = dict(imports=["backbones.mm.training"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=100),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # Never fewer than two: the oldest is deleted before the newest is written.
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, backend_args=dict(backend="atomic")),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    check_data=dict(type="CheckDataHook"),
    check_space=dict(type="CheckSpaceHook"),
    finite_loss=dict(type="FiniteLossHook"),
    seed=dict(type="SeedHook"),
    learning_curve=dict(type="LearningCurveHook"),
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
# Numbers go to a text file and to TensorBoard: tensorboard --logdir work_dirs
visualizer = dict(
    type="UniversalVisualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
