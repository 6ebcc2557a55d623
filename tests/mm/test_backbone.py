"""The adaptor between the zoo and OpenMMLab."""

from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import backbones
import backbones.mm  # noqa: F401
from backbones.mm import operators
from backbones.mm.training import run

pytestmark = pytest.mark.mm

TINY = backbones.list_models("test_*", task="classification")
PYRAMIDS = [name for name in TINY if timm.create_model(name).feature_info[-1]["reduction"] == 32]
PLAIN = [name for name in TINY if name not in PYRAMIDS]
IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(model: str, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(type="ZooBackbone", model=model, **kwargs))


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 2), (-1,)])
def test_every_parameter_learns(name, indices):
    backbone = build(name, out_indices=indices)
    maps = backbone(IMAGE)
    assert isinstance(maps, tuple)
    assert [y.shape[1] for y in maps] == backbone.out_channels
    for y, index in zip(maps, indices):
        stride = 4 * 2 ** (index % 4)
        assert y.shape[2:] == (64 // stride, 96 // stride)
    sum(y.square().mean() for y in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", TINY)
def test_logits_are_timms(name):
    backbone = build(name, out_indices=None, num_classes=7).eval()
    model = timm.create_model(name, num_classes=7).eval()
    model.load_state_dict(backbone.model.state_dict())
    image = IMAGE if name in PYRAMIDS else torch.rand(2, *model.pretrained_cfg["input_size"])
    (logits,) = backbone(image)
    assert torch.equal(logits, model(image))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_models_give_maps_of_one_stride(name):
    backbone = build(name, out_indices=(1, 3))
    _, height, width = backbone.model.pretrained_cfg["input_size"]
    stride = backbone.model.feature_info[-1]["reduction"]
    maps = backbone(torch.rand(2, 3, height, width))
    assert [y.shape[1:] for y in maps] == [(c, height // stride, width // stride) for c in backbone.out_channels]
    sum(y.square().mean() for y in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_stages_stay_as_they_are(name, frozen):
    backbone = build(name, frozen_stages=frozen, drop_path_rate=0.5)
    assert backbone.train() is backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(y.mean() for y in backbone(IMAGE)).backward()
    optimizer.step()
    changed = {key for key, value in backbone.state_dict().items() if not before[key].equal(value)}
    parts = {key.removeprefix("model.").split(".blocks")[0].split(".downsample")[0] for key in changed}
    assert parts - {f"stages.{i}.norm.{n}" for i in range(frozen, 4) for n in ("weight", "bias")} == {
        f"stages.{i}" for i in range(frozen, 4)
    }


def test_norm_eval_keeps_statistics():
    backbone = build("test_van", norm_eval=True)
    backbone.train()
    assert backbone.training and not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    backbone.norm_eval = False
    backbone.train()
    assert all(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_out_norm_normalises_the_chosen_levels():
    plain = build("test_litv2").eval()
    normed = build("test_litv2", out_norm=(False, True, False, True)).eval()
    assert sorted(normed.out_norms) == ["1", "3"]
    normed.model.load_state_dict(plain.model.state_dict())
    for i, (x, y) in enumerate(zip(plain(IMAGE), normed(IMAGE))):
        if i in (1, 3):
            x = nn.functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_maps_are_copied_for_compiled_operators_only(name, compiled, monkeypatch):
    monkeypatch.setattr(operators, "are_compiled", lambda: compiled)
    for y in build(name)(IMAGE):
        assert y.is_contiguous(memory_format=torch.contiguous_format if compiled else torch.channels_last)


def test_operators_read_the_maps_right():
    """Compiled, mmcv's RoIAlign takes memory as contiguous whatever the strides; torchvision's is the reference."""
    from mmcv.ops import roi_align
    from mmdet.models.necks import FPN
    from torchvision.ops import roi_align as reference

    backbone = build("test_van").eval()
    maps = FPN(backbone.out_channels, 8, 4)(backbone(IMAGE))
    boxes = torch.tensor([[0.0, 3, 5, 60, 40]])
    for i, y in enumerate(maps):
        scale = 1 / 4 / 2**i
        torch.testing.assert_close(
            roi_align(y, boxes, 3, scale, 2, "avg", True), reference(y, boxes, 3, scale, 2, aligned=True)
        )


@pytest.mark.parametrize("name", PYRAMIDS)
def test_final_norm_is_the_classifiers(name):
    backbone = build(name, out_indices=(3,), final_norm=True).eval()
    model = timm.create_model(name).eval()
    missing = model.load_state_dict(backbone.model.state_dict(), strict=False).missing_keys
    assert all(key.startswith("head.") for key in missing)
    torch.testing.assert_close(backbone(IMAGE)[0].permute(0, 2, 3, 1), model.forward_features(IMAGE))


@pytest.mark.parametrize("name", TINY)
def test_checkpointing_changes_nothing(name):
    grads = []
    for with_cp in (False, True):
        backbone = build(name, out_indices=None, with_cp=with_cp).train()
        torch.manual_seed(0)
        image = IMAGE if name in PYRAMIDS else torch.rand(2, *backbone.model.pretrained_cfg["input_size"])
        backbone(image)[0].square().mean().backward()
        grads.append({key: p.grad for key, p in backbone.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, msg=lambda m, key=key: f"{key}: {m}")


def test_diffusion_features_feed_a_segmentation_head():
    """A diffusion transformer at a chosen time gives maps of one stride, of which a neck makes a pyramid."""
    options = dict(model="test_ptdit", in_chans=3, num_classes=0, patch_size=8, out_indices=(0, 2))
    backbone = build(**options, feature_timestep=50.0)
    maps = backbone(IMAGE)
    assert [y.shape for y in maps] == [(2, 64, 8, 12)] * 2 and backbone.out_channels == [64, 64]
    with torch.no_grad():
        for y, z in zip(maps, backbone.model.forward_intermediates(IMAGE, [0, 2], timesteps=50.0)[1]):
            assert torch.equal(y, z)
    sum(y.square().mean() for y in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []

    import mmseg.models  # noqa: F401

    config = Path(__file__).parents[2] / "configs/ptdit/segmentation/ptdit-test_upernet_1xb8-400i_digits-256x192.py"
    cfg = run.load_config(config)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
    assert [y.shape[2:] for y in model.extract_feat(IMAGE)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.fixture
def mmpretrain_scope():
    """Whatever scope another test left."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


@pytest.mark.usefixtures("mmpretrain_scope")
def test_image_classifier_with_neck_and_head_equals_timm():
    """The usual MMPretrain assembly, for the families that normalise and then pool."""
    config = dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(type="ZooBackbone", model="test_litv2", out_indices=(3,), final_norm=True),
        neck=dict(type="mmpretrain.GlobalAveragePooling"),
        head=dict(type="mmpretrain.LinearClsHead", num_classes=10, in_channels=96),
    )
    classifier = MODELS.build(config).eval()
    model = timm.create_model("test_litv2", num_classes=10).eval()
    model.load_state_dict(classifier.backbone.model.state_dict(), strict=False)
    model.head.fc.load_state_dict(classifier.head.fc.state_dict())
    torch.testing.assert_close(classifier(IMAGE), model(IMAGE))


# timm's own models ---------------------------------------------------------------------------------------------------

# Architectures that timm writes in as many ways: with and without stem and stages, channels last, tokens, branches.
OTHERS = {
    "resnet18": ({"conv1", "bn1", "layer1"}, 64),
    "resnetv2_18": ({"stem", "stages.0"}, 64),
    "convnext_atto": ({"stem", "stages.0"}, 40),
    "swin_tiny_patch4_window7_224": ({"patch_embed", "layers.0"}, 96),
    "vit_tiny_patch16_224": ({"cls_token", "pos_embed", "patch_embed", "blocks.0"}, 192),
    "pvt_v2_b0": ({"patch_embed", "stages.0"}, 32),
    "efficientnet_b0": ({"conv_stem", "bn1", "blocks.0"}, 16),
    "mobilenetv3_small_050": ({"conv_stem", "bn1", "blocks.0"}, 16),
    "regnety_002": ({"stem", "s1"}, 32),
    "densenet121": ({"features"}, 64),
    "ghostnet_050": ({"conv_stem", "bn1", "blocks.0"}, 8),
    "vgg11": ({"features"}, 64),
}


@pytest.mark.parametrize("name", OTHERS)
def test_timms_models_give_maps_and_freeze(name):
    frozen, width = OTHERS[name]
    with torch.device("meta"):
        indices = (0, 2) if len(timm.create_model(name).feature_info) < 5 else (1, 3)
        backbone = build(name, out_indices=indices, frozen_stages=1)
        maps = backbone.train()(torch.empty(2, 3, 224, 224))
        sum(y.sum() for y in maps).backward()
    model = timm.create_model(name)
    expected = [model.feature_info[i] for i in indices]
    assert [y.shape[1:] for y in maps] == [(i["num_chs"], *[-(-224 // i["reduction"])] * 2) for i in expected]
    assert [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []
    still = {key for key, p in backbone.model.named_parameters() if not p.requires_grad}
    assert still and all(any(key.startswith(part) for part in frozen) for key in still)
    others = {key for key in dict(backbone.model.named_parameters()) if key.split(".")[0] in frozen - {"features"}}
    assert others <= still
    modes = {key: module.training for key, module in backbone.model.named_modules()}
    assert {modes[key.rpartition(".")[0]] for key in still if "." in key} == {False} and modes[""]


def test_every_kind_of_timms_models_has_what_the_adaptor_calls():
    """One model of each class that timm registers under a tiny name; they run in float32 on this machine."""
    for name in timm.list_models("test_*", exclude_filters=backbones.list_models()):
        backbone = build(name, out_indices=(-1,), with_cp=False).eval()
        height, width = backbone.model.pretrained_cfg["input_size"][1:]
        (y,) = backbone(torch.rand(1, 3, height, width))
        assert y.shape[1] == backbone.out_channels[0], name


def test_a_head_of_timms_is_told_from_the_body(tmp_path):
    source = timm.create_model("resnet18", num_classes=5)
    target = build("resnet18", out_indices=None, num_classes=7)
    target.load_weights(save(tmp_path / "a.pth", source))
    assert target.model.layer4[1].conv2.weight.equal(source.layer4[1].conv2.weight)
    weights = source.state_dict()
    del weights["layer3.0.conv1.weight"]
    torch.save(weights, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="does not fit resnet18: missing .*: layer3.0.conv1.weight$"):
        target.load_weights(str(tmp_path / "b.pth"))


# Weights --------------------------------------------------------------------------------------------------------------


def save(path, model, prefix="", **extra):
    torch.save({"state_dict": {prefix + key: value for key, value in model.state_dict().items()}, **extra}, path)
    return str(path)


@pytest.mark.usefixtures("mmpretrain_scope")
def test_init_cfg_loads_and_survives_mmengines_initialisation(tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("test_litv2")
    init_cfg = dict(type="Pretrained", checkpoint=save(tmp_path / "a.pth", source))
    config = dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(type="ZooBackbone", model="test_litv2", out_indices=None, num_classes=10, init_cfg=init_cfg),
        head=dict(type="mmpretrain.ClsHead"),
    )
    classifier = MODELS.build(config)
    classifier.init_weights()
    loaded = classifier.backbone.model.state_dict()
    for key, value in source.state_dict().items():
        if not key.startswith("head."):  # 1000 classes there, 10 here
            assert value.equal(loaded[key]), key


def test_without_init_cfg_mmengine_leaves_weights_alone():
    backbone = build("test_van")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(before[key].equal(value) for key, value in backbone.state_dict().items())


def test_detection_checkpoint_brings_its_output_norms(tmp_path):
    config = dict(model="test_litv2", out_norm=(False, True, True, True))
    source, target = build(**config), build(**config)
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1)
    target.load_weights(save(tmp_path / "a.pth", source, prefix="backbone."))
    assert all(value.equal(target.state_dict()[key]) for key, value in source.state_dict().items())


def test_prefix_selects_entries(tmp_path):
    source, target = build("test_van"), build("test_van")
    with torch.no_grad():
        source.model.stem.proj.weight.add_(1)
    target.load_weights(save(tmp_path / "a.pth", source.model, prefix="encoder."), prefix="encoder.")
    assert source.model.stem.proj.weight.equal(target.model.stem.proj.weight)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    path = save(tmp_path / "a.pth", timm.create_model("test_litv2"))
    with pytest.raises(ValueError, match="does not fit test_van: missing from the checkpoint: stem."):
        build("test_van").load_weights(path)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model="vann_b0"), "van_b0"),
        (dict(model="test_van", out_indices=(0, 4)), "stages 0 to 3"),
        (dict(model="test_van", out_indices=()), "stages 0 to 3"),
        (dict(model="test_van", out_indices=(2, 1)), "ascend"),
        (dict(model="test_van", frozen_stages=5), "4 stages"),
        (dict(model="test_van", out_norm=(True, False)), "2 flags"),
        (dict(model="test_litv2", out_indices=(0, 1), final_norm=True), "stage 3"),
        (dict(model="test_van", init_cfg=dict(type="Normal")), "only 'Pretrained'"),
        (dict(model="test_ptdit", out_indices=None), "gives no logits"),
        (dict(model="caformer_s18", frozen_stages=1), "timm tells no stages of caformer_s18 apart: leave frozen"),
        (dict(model="levit_128s", out_indices=(0, 3)), "stages 0 to 2"),
        (dict(model="inception_v4", with_cp=True), "cannot recompute activations: leave with_cp=False"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_small_image_is_refused():
    with pytest.raises(ValueError, match="32"):
        build("test_van")(torch.rand(1, 3, 31, 64))
