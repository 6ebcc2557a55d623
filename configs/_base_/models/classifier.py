# A whole model of the zoo, its own head included (out_indices=None), behind MMPretrain's losses and metrics.
# A config adds backbone.model and, where it is not 1000, num_classes here and in data_preprocessor.
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ZooBackbone", out_indices=None, num_classes=1000),
    head=dict(type="ClsHead", loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")),
    # one of the two for each batch
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
