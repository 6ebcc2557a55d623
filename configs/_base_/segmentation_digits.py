"""Everything a digits segmentation run shares; a config adds the model, from models/*_digits.py.

From scratch on a processor in a few minutes: 400 iterations of eight scenes.
"""

_base_ = ["./datasets/digits_semantic.py", "./schedules/adamw_digits.py", "./segmentation_runtime.py"]

default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=100),
)
randomness = dict(seed=0)
