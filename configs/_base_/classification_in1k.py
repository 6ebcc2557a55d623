"""Everything an ImageNet-1K run at 224 shares; a config adds the model, its drop path and what its paper does otherwise."""

_base_ = ["./models/classifier.py", "./datasets/imagenet_224.py", "./schedules/adamw_300e.py", "./default_runtime.py"]
