"""Checks before the first iteration, and loading afterwards."""

import contextlib

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

import backbones
from backbones.mm import ZooBackbone
from backbones.mm.training import run
from tests.families.test_litv2 import to_official

pytestmark = pytest.mark.mm


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmpretrain")  # whatever the test before left


def classifier(**backbone) -> ConfigDict:
    options = dict(type="ZooBackbone", model="test_van", out_indices=None, num_classes=10) | backbone
    head = dict(type="mmpretrain.ClsHead")
    return ConfigDict(type="mmpretrain.ImageClassifier", backbone=options, head=head)


def pyramid(in_channels, key="neck") -> ConfigDict:
    part = dict(in_channels=in_channels)
    return ConfigDict(backbone=dict(type="ZooBackbone", model="test_van", out_indices=(0, 1, 2, 3)), **{key: part})


WIDTHS = [info["num_chs"] for info in backbones.create_model("test_van").feature_info]


@pytest.mark.parametrize("key", ["neck", "decode_head"])
def test_wrong_widths_are_named_with_the_remedy(key):
    run.check_config(Config(dict(model=pyramid(WIDTHS, key))))
    with pytest.raises(ValueError) as error:
        run.check_config(Config(dict(model=pyramid([64, 128, 256, 512], key))))
    assert "[64, 128, 256, 512]" in str(error.value)
    assert f"write {key}=dict(in_channels={WIDTHS})" in str(error.value)


def test_first_of_several_necks_is_checked():
    model = pyramid(WIDTHS)
    model.neck = [dict(type="FPN", in_channels=[1, 2, 3, 4]), dict(type="Other", in_channels=7)]
    with pytest.raises(ValueError, match=r"neck\[0\]"):
        run.check_config(Config(dict(model=model)))


def heads(**parts) -> ConfigDict:
    backbone = dict(type="ZooBackbone", model="test_van", out_indices=(0, 1, 2, 3))
    return ConfigDict(backbone=backbone, **parts)


FPN = dict(type="FPN", in_channels=WIDTHS, out_channels=64, num_outs=5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            dict(neck=FPN, rpn_head=dict(in_channels=256)),
            r"rpn_head.in_channels is 256, but neck gives 64: write rpn_h",
        ),
        (dict(neck=FPN, bbox_head=dict(in_channels=256)), r"write bbox_head=dict\(in_channels=64\)"),
        (
            dict(neck=FPN, decode_head=dict(in_channels=[256] * 4, in_index=[0, 1, 2, 3])),
            r"in_channels=\[64, 64, 64, 64\]",
        ),
        (
            dict(auxiliary_head=[dict(in_channels=WIDTHS[2], in_index=2), dict(in_channels=99, in_index=1)]),
            rf"model.auxiliary_head\[1\].in_channels is 99, but test_van .* gives {WIDTHS[1]}",
        ),
        (
            dict(neck=dict(type="mmseg.Feature2Pyramid", embed_dim=64)),
            r"neck.embed_dim is 64, but test_van .* gives \[16,",
        ),
    ],
)
def test_wrong_widths_of_heads_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        run.check_config(Config(dict(model=heads(**parts))))


def test_right_widths_of_heads_pass():
    two_stages = dict(rpn_head=dict(in_channels=64), roi_head=dict(bbox_head=dict(in_channels=64)))
    run.check_config(Config(dict(model=heads(neck=FPN, **two_stages))))
    decoders = dict(
        decode_head=dict(in_channels=WIDTHS, in_index=[0, 1, 2, 3]),
        auxiliary_head=dict(in_channels=WIDTHS[2], in_index=2),
    )
    run.check_config(Config(dict(model=heads(**decoders))))


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        (dict(bbox_head=dict(num_classes=7)), "bbox_head"),
        (dict(decode_head=dict(num_classes=80), auxiliary_head=[dict(num_classes=7)]), r"auxiliary_head\[0\]"),
        (dict(roi_head=dict(bbox_head=[dict(num_classes=80), dict(num_classes=7)])), r"roi_head.bbox_head\[1\]"),
        (dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=7))), "roi_head.mask_head"),
    ],
)
def test_class_counts_of_heads_are_those_of_the_data(parts, place):
    parts["rpn_head"] = dict(num_classes=1)
    with pytest.raises(ValueError, match=rf"model.{place}.num_classes is 7, but COCO has 80 .*set model.{place}.num_c"):
        run.check_class_counts(heads(**parts), 80, "COCO")
    run.check_class_counts(classifier(num_classes=80), 80, "COCO")
    with pytest.raises(ValueError, match="model.backbone.num_classes is 10"):
        run.check_class_counts(classifier(), 80, "COCO")


def test_known_data_sets_are_compared_before_they_are_read(tmp_path):
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    prefix = dict(img_path="images", seg_map_path="annotations")
    dataset = dict(type="ADE20KDataset", data_root=str(tmp_path), data_prefix=prefix)
    cfg = dict(
        default_scope="mmseg", model=heads(decode_head=dict(num_classes=19)), val_dataloader=dict(dataset=dataset)
    )
    with pytest.raises(ValueError, match=r"num_classes is 19, but val_dataloader.dataset \(ADE20KDataset\) has 150"):
        run.check_config(Config(cfg))
    dataset["metainfo"] = dict(classes=[str(i) for i in range(19)])
    run.check_config(Config(cfg))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(logger=dict(log_metric_by_epoch=True), checkpoint=dict(by_epoch=False)),
            "logger.log_metric_by_epoch is True",
        ),
        (dict(checkpoint=dict(by_epoch=True)), "iterations: set default_hooks.checkpoint.by_epoch=False"),
        (dict(checkpoint=dict(by_epoch=False, max_keep_ckpts=1)), "max_keep_ckpts is 1, .*keep 2 or more"),
    ],
)
def test_checkpoints_are_counted_as_training_is(options, message):
    cfg = dict(model=classifier(), train_cfg=dict(type="IterBasedTrainLoop", max_iters=4), default_hooks=options)
    with pytest.raises(ValueError, match=message):
        run.check_config(Config(cfg))


def test_hooks_may_be_turned_off():
    cfg = dict(model=classifier(), train_cfg=dict(by_epoch=True, max_epochs=1), default_hooks=dict(checkpoint=None))
    run.check_config(Config(cfg))


def test_work_folder_that_cannot_be_written(tmp_path):
    run.check_work_dir(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write to .*file/work.*--work-dir"):
        run.check_work_dir(tmp_path / "file" / "work")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model="vam_b0"), "van_b0"),
        (dict(drop_pth_rate=0.1), "drop_path_rate"),
        (dict(num_classes=7), "the model has 7 classes, the data 10: set model.backbone.num_classes=10"),
    ],
)
def test_mistakes_in_the_model_are_named(options, message):
    model = classifier(**options)
    model.data_preprocessor = dict(num_classes=10)
    with pytest.raises(ValueError, match=message):
        run.check_config(Config(dict(model=model)))


def test_missing_data_folder_says_how_to_get_it(tmp_path):
    dataset = dict(type="RepeatDataset", dataset=dict(type="ImageNet", data_root=str(tmp_path), split="val"))
    cfg = Config(dict(model=classifier(), val_dataloader=dict(dataset=dataset)))
    with pytest.raises(FileNotFoundError, match="val'.*image-net.org.*--cfg-options val_dataloader"):
        run.check_config(cfg)
    (tmp_path / "val").mkdir()
    run.check_config(cfg)


@pytest.mark.parametrize(
    ("scope", "dataset", "message"),
    [
        (
            "mmdet",
            dict(type="CocoDataset", data_prefix=dict(img="train2017")),
            "no data folder .*train2017.*cocodataset.org",
        ),
        ("mmdet", dict(type="CocoDataset", ann_file="a.json"), "no annotation file .*a.json'.*cocodataset.org"),
        (
            "mmseg",
            dict(type="ADE20KDataset", data_prefix=dict(img_path="images")),
            "csail.mit.edu.*ADEChallengeData2016",
        ),
    ],
)
def test_missing_dense_data_says_how_to_get_it(scope, dataset, message, tmp_path):
    loader = dict(dataset=dict(dataset, data_root=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=f"{message}.*--cfg-options train_dataloader.dataset.data_root=DIR"):
        run.check_config(Config(dict(default_scope=scope, model=heads(), train_dataloader=loader)))


def test_folders_have_the_names_that_the_dataset_reads(tmp_path):
    (tmp_path / "images").mkdir()
    for scope, kind, wrong, right in (
        ("mmdet", "CocoDataset", "img_path", "img"),
        ("mmseg", "BaseSegDataset", "img", "img_path"),
        ("mmpretrain", "CustomDataset", "img", "img_path"),
    ):
        dataset = dict(type=kind, data_root=str(tmp_path), data_prefix={wrong: "images"})
        cfg = dict(default_scope=scope, model=heads(), train_dataloader=dict(dataset=dataset))
        with pytest.raises(
            ValueError, match=rf"train_dataloader.dataset .*{kind} .*: write data_prefix=dict\({right}="
        ):
            run.check_config(Config(cfg))
        dataset["data_prefix"] = {right: "images"}
        run.check_config(Config(cfg))
    cfg = dict(
        default_scope="mmdet", model=heads(), train_dataloader=dict(dataset=dict(type="CocoDataset", data_root="/"))
    )
    with pytest.raises(ValueError, match=r"data_prefix={}, but CocoDataset .* write data_prefix=dict\(img=DIR"):
        run.check_config(Config(cfg))


@pytest.mark.parametrize(
    ("in_chans", "color_type", "means", "message"),
    [
        (
            1,
            "color",
            3,
            r"in_chans is 1, but images of train_dataloader.dataset have 3 .*write LoadImageFromFile\(color_t",
        ),
        (1, "grayscale", 3, r"\(color_type='grayscale', 3 means\): write .*and one mean and std in data_preprocessor"),
        (3, "grayscale", 1, "in_chans is 3, but images of train_dataloader.dataset have 1 .*color_type='color'"),
        (4, "color", 3, "in_chans is 4, .* set in_chans=3"),
        (1, "grayscale", 1, None),
        (3, "grayscale", 3, None),  # normalising by three means makes three channels
        (3, "color_ignore_orientation", 3, None),
        (4, "unchanged", 4, None),
    ],
)
def test_channels_of_model_loader_and_preprocessor_are_compared(in_chans, color_type, means, message):
    step = dict(type="LoadImageFromFile", color_type=color_type)
    cfg = dict(
        model=classifier(in_chans=in_chans),
        data_preprocessor=dict(mean=[0.0] * means, std=[1.0] * means),
        train_dataloader=dict(dataset=dict(type="Digits", pipeline=[step])),
    )
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        run.check_config(Config(cfg))


def test_missing_annotations_of_a_metric(tmp_path):
    loader = dict(dataset=dict(type="CocoDataset", data_root=str(tmp_path), data_prefix=dict(img="")))
    cfg = dict(model=heads(), val_dataloader=loader, val_evaluator=dict(type="CocoMetric", ann_file="absent.json"))
    with pytest.raises(FileNotFoundError, match="no annotation file 'absent.json': .*val_evaluator.ann_file=FILE"):
        run.check_config(Config(dict(cfg, default_scope="mmdet")))


def test_missing_and_truncated_checkpoints_are_named(tmp_path):
    whole, cut, empty = (tmp_path / name for name in ("whole.pth", "cut.pth", "empty.pth"))
    torch.save({"state_dict": MODELS.build(classifier()).state_dict()}, whole)
    cut.write_bytes(whole.read_bytes()[:-1000])
    empty.touch()
    run.check_config(Config(dict(model=classifier(), load_from=str(whole))))
    for path in (cut, empty):
        with pytest.raises(ValueError, match=f"{path.name}.*truncated"):
            run.check_config(Config(dict(model=classifier(), load_from=str(path))))
        with pytest.raises(ValueError, match="truncated"):
            run.load_weights(MODELS.build(classifier()), str(path))
    with pytest.raises(FileNotFoundError, match="absent"):
        run.check_config(Config(dict(model=classifier(init_cfg=dict(type="Pretrained", checkpoint="absent.pth")))))


def test_class_count_that_does_not_fit_is_named(tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save({"state_dict": MODELS.build(classifier()).state_dict(), "meta": {"epoch": 3}}, path)
    assert run.load_weights(MODELS.build(classifier()), path) == {"epoch": 3}
    with pytest.raises(ValueError, match=r"head\.fc\.weight has shape \[10, .*the model's \[7, .*num_classes"):
        run.load_weights(MODELS.build(classifier(num_classes=7)), path)


def test_any_layout_goes_into_a_whole_classifier_and_back(tmp_path):
    source = backbones.create_model("test_van", num_classes=10)
    bare = str(tmp_path / "bare.pth")
    torch.save(source.state_dict(), bare)
    target = MODELS.build(classifier())
    run.load_weights(target, bare)
    assert all(v.equal(target.backbone.model.state_dict()[k]) for k, v in source.state_dict().items())

    trained = {"state_dict": target.state_dict(), "message_hub": Config()}
    converted = backbones.weights.convert_state_dict(trained, source)
    assert all(v.equal(converted[k]) for k, v in source.state_dict().items())


def test_latest_checkpoint_is_the_furthest(tmp_path):
    assert run.latest_checkpoint(tmp_path) is None
    for name in ("epoch_9.pth", "epoch_10.pth", "epoch_11.pth.partial-77", "best_accuracy_top1_epoch_12.pth"):
        (tmp_path / name).touch()
    assert run.latest_checkpoint(tmp_path) == str(tmp_path / "epoch_10.pth")


def test_latest_checkpoint_is_the_noted_one(tmp_path):
    """An earlier run in the folder may have come further."""
    for name in ("epoch_1.pth", "epoch_3.pth"):
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("/moved/from/here/epoch_1.pth")
    assert run.latest_checkpoint(tmp_path) == str(tmp_path / "epoch_1.pth")
    (tmp_path / "epoch_1.pth").unlink()
    assert run.latest_checkpoint(tmp_path) == str(tmp_path / "epoch_3.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim_wraper.optimizer.lr": 5}, "no optim_wraper.*did you mean optim_wrapper"),
        ({"randomnes.seed": 9}, "no randomnes.*did you mean randomness"),
    ],
)
def test_misspelt_options_are_not_ignored(options, message):
    with pytest.raises(ValueError, match=message):
        run.load_config("van-test_1xb32-20e_digits-64px", options)


def test_a_config_without_a_model(tmp_path):
    path = tmp_path / "empty.py"
    path.touch()
    with pytest.raises(ValueError, match="empty.py has no model"):
        run.check_config(run.load_config(path))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("train_dataloader.batch_size", 0),
        ("val_dataloader.batch_size", -4),
        ("train_cfg.max_epochs", "two"),
        ("train_cfg.val_interval", 0),
        ("optim_wrapper.optimizer.lr", -1),
        ("optim_wrapper.optimizer.lr", "abc"),
    ],
)
def test_numbers_of_a_run(option, value):
    cfg = run.load_config("van-test_1xb32-20e_digits-64px", {option: value})
    with pytest.raises(ValueError, match=f"{option} is {value!r}, and has to be a .*number, [01] or more"):
        run.check_config(cfg)


def test_more_ranks_than_classes():
    cfg = run.load_config("van-test_1xb32-20e_digits-64px")
    cfg.val_evaluator = dict(type="Accuracy", topk=(1, 11))
    with pytest.raises(ValueError, match=r"val_evaluator.topk is .*11.*, but the model has 10 classes"):
        run._check_evaluator(cfg, "val")


def test_config_that_does_not_parse(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("model = dict(")
    with pytest.raises(ValueError, match="broken.py is no valid config"):
        run.load_config(path)
    with pytest.raises(FileNotFoundError, match="absent.py"):
        run.load_config("absent.py")


def test_a_published_detector_loads(tmp_path):
    """Its backbone has the authors' names, output norms among them; the rest has the names of the framework."""

    def network() -> torch.nn.Module:
        network = torch.nn.Module()
        network.backbone = ZooBackbone("test_litv2", out_norm=(False, True, True, True))
        network.neck = torch.nn.Linear(2, 2)
        return network

    source, target = network(), network()
    weights = {}
    for key, value in source.state_dict().items():
        if key.startswith("backbone.model."):
            key = f"backbone.{to_official(key.removeprefix('backbone.model.'))}"
        weights[key.replace("out_norms.", "norm")] = torch.randn_like(value) if value.is_floating_point() else value
    torch.save({"meta": {"epoch": 12}, "state_dict": weights}, tmp_path / "published.pth")
    assert run.load_weights(target, str(tmp_path / "published.pth")) == {"epoch": 12}
    assert torch.equal(target.backbone.out_norms["2"].bias, weights["backbone.norm2.bias"])
    assert torch.equal(target.neck.weight, weights["neck.weight"])
    stem = target.backbone.model.stem
    assert torch.equal(stem.proj.weight.flatten(), weights["backbone.patch_embed.proj.weight"].flatten())
    del weights["backbone.norm2.bias"]
    torch.save({"state_dict": weights}, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match="missing from the checkpoint: .*backbone.out_norms.2.bias"):
        run.load_weights(target, str(tmp_path / "damaged.pth"))


def test_checkpoints_of_a_config_are_files_addresses_or_tags():
    for known in ("https://example.org/a.pth", "hf-hub:a/b", "van_b0.in1k"):
        run.check_file(known)
    with pytest.raises(FileNotFoundError, match="no checkpoint at 'van_b0.in2k'"):
        run.check_file("van_b0.in2k")


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (heads(decode_head=dict(num_classes=1, loss_decode=dict(type="CrossEntropyLoss"))), "decode_head"),
        (heads(decode_head=dict(num_classes=1, loss_decode=[dict(type="CrossEntropyLoss")])), "decode_head"),
        (heads(decode_head=dict(num_classes=2), auxiliary_head=[dict(num_classes=1)]), r"auxiliary_head\[0\]"),
        (classifier(num_classes=1), "backbone"),
        (ConfigDict(backbone=dict(out_indices=(3,)), head=dict(type="LinearClsHead", num_classes=1)), "head"),
    ],
)
def test_cross_entropy_over_one_class_is_refused(model, place):
    with pytest.raises(ValueError, match=rf"model.{place}.num_classes is 1, and cross entropy over one class is"):
        run.check_config(Config(dict(model=model)))


@pytest.mark.parametrize(
    "model",
    [
        heads(decode_head=dict(num_classes=1, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True))),
        heads(decode_head=dict(num_classes=1, loss_decode=dict(type="DiceLoss"))),
        heads(bbox_head=dict(num_classes=1)),  # and background
        ConfigDict(backbone=dict(out_indices=(3,)), head=dict(type="MultiLabelLinearClsHead", num_classes=1)),
    ],
)
def test_one_class_with_another_loss_is_fine(model):
    run.check_config(Config(dict(model=model)))
