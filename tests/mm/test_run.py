"""Checks before the first iteration, and loading afterwards."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

import backbones
from backbones.mm import run

pytestmark = pytest.mark.mm


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
    with pytest.raises(ValueError, match=r"num_classes.*head\.fc\.weight has shape \(10, .*the model's \(7,"):
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


def test_config_that_does_not_parse(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("model = dict(")
    with pytest.raises(ValueError, match="broken.py is no valid config"):
        run.load_config(path)
    with pytest.raises(FileNotFoundError, match="absent.py"):
        run.load_config("absent.py")
