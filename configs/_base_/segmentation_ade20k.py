"""Everything an ADE20K run shares; a config adds the model, from models/, and a schedule of iterations."""

_base_ = ["mmseg::_base_/datasets/ade20k.py", "./segmentation_runtime.py"]

train_dataloader = dict(batch_size=2)
val_cfg = dict()
test_cfg = dict()
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=8000),
)
