# default_runtime for generators: counted in iterations, the loss on held-out data, pictures on the way, averaged weights.
_base_ = "./default_runtime.py"

train_cfg = dict(type="IterBasedTrainLoop")
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type="FlowLoss")
test_evaluator = val_evaluator
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False),
    sample_grid=dict(type="SampleGridHook"),
)
custom_hooks = [dict(type="EMAHook", momentum=1e-4)]
