"""Every detection and segmentation config: parses, builds, fits together, says what it is; one a family trains."""

import copy
import json
import re
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict, utils
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from PIL import Image

from backbones.mm import ZooBackbone
from backbones.mm.training import run
from backbones.models._pyramid import PyramidBackbone
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[2]
DENSE = [
    path
    for task in ("detection", "segmentation")
    for path in sorted(ROOT.glob(f"configs/*/{task}/*.py"))
    if "_digits" not in path.stem
]
FAMILIES = sorted({path.parents[1].name for path in ROOT.glob("configs/*/classification/*.py")})


def ids(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module", autouse=True)
def quick_lookups():
    """MMEngine reads all metafiles of a package anew for every ``mmdet::`` in a config, half a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "load", cache(utils.load))
        yield


@cache
def load_once(path: Path) -> Config:
    return run.load_config(path)


def load(path: Path) -> Config:
    cfg = load_once(path).copy()
    init_default_scope(cfg.default_scope)
    return cfg


def necks_of(model: Config) -> list[Config]:
    neck = model.get("neck") or []
    return neck if isinstance(neck, list) else [neck]


def build(cfg: Config) -> torch.nn.Module:
    """The network without its pretrained weights."""
    cfg.model.backbone.pop("init_cfg", None)
    cfg.model.backbone.pretrained = False
    return MODELS.build(copy.deepcopy(cfg.model))  # DINO writes into its config


# Millions of parameters of the whole network, as the papers and the authors' repositories print them. Left out where
# they contradict the backbone's own number: VAN-B5 in UPerNet (117 printed; 89 of the backbone and 33 of the heads) and
# SG-Former-S and M in Mask R-CNN (41 and 51 printed; 22 and 39 of the backbone and 20 of the rest, as in LITv2).
PUBLISHED_PARAMETERS = {
    "davit-tiny-window7-224_retinanet-fpn_8xb2-ms-1x_coco": 38.5,
    "davit-small-window7-224_retinanet-fpn_8xb2-ms-1x_coco": 59.9,
    "davit-base-window7-224_retinanet-fpn_8xb2-ms-1x_coco": 98.5,
    "davit-tiny-window7-224_mask-rcnn-fpn_8xb2-ms-3x_coco": 47.8,
    "davit-small-window7-224_mask-rcnn-fpn_8xb2-ms-3x_coco": 69.2,
    "davit-base-window7-224_mask-rcnn-fpn_8xb2-ms-3x_coco": 107.3,
    "davit-tiny-window7-224_upernet_8xb2-160k_ade20k-512x512": 60,
    "davit-small-window7-224_upernet_8xb2-160k_ade20k-512x512": 81,
    "davit-base-window7-224_upernet_8xb2-160k_ade20k-512x512": 121,
    "illama-tiny_upernet_8xb2-160k_ade20k-512x512": 10.86,
    "illama-base_upernet_8xb2-160k_ade20k-512x512": 163.22,
    "litv2-s_retinanet-fpn_8xb2-1x_coco": 38.01,
    "litv2-m_retinanet-fpn_8xb2-1x_coco": 59,
    "litv2-b_retinanet-fpn_8xb2-1x_coco": 97,
    "litv2-s_mask-rcnn-fpn_8xb2-1x_coco": 47,
    "litv2-m_mask-rcnn-fpn_8xb2-1x_coco": 68,
    "litv2-b-ws4_mask-rcnn-fpn_8xb2-1x_coco": 106,
    "litv2-s_semfpn_8xb2-80k_ade20k-512x512": 31.45,
    "litv2-m_semfpn_8xb2-80k_ade20k-512x512": 52,
    "litv2-b_semfpn_8xb2-80k_ade20k-512x512": 90,
    "nat-mini_mask-rcnn-fpn_8xb2-ms-3x_coco": 40,
    "nat-tiny_mask-rcnn-fpn_8xb2-ms-3x_coco": 48,
    "nat-small_mask-rcnn-fpn_8xb2-ms-3x_coco": 70,
    "dinat-s-tiny_mask-rcnn-fpn_8xb2-ms-3x_coco": 48,
    "dinat-s-small_mask-rcnn-fpn_8xb2-ms-3x_coco": 69,
    "nat-base_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco": 147,
    "dinat-large_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco": 258,
    "dinat-s-large_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco": 253,
    "nat-base_upernet_8xb2-160k_ade20k-512x512": 123,
    "dinat-large_upernet_8xb2-160k_ade20k-512x512": 238,
    "dinat-s-large_upernet_8xb2-160k_ade20k-512x512": 234,
    "sgformer-s_upernet_8xb2-160k_ade20k-512x512": 53,
    "sgformer-m_upernet_8xb2-160k_ade20k-512x512": 68,
    "sgformer-b_upernet_8xb2-160k_ade20k-512x512": 109,
    "transnext-tiny_dino-4scale_8xb1-ms-12e_coco": 47.8,
    "transnext-tiny_dino-5scale_8xb1-ms-12e_coco": 48.1,
    "transnext-small_dino-5scale_8xb1-ms-12e_coco": 69.6,
    "transnext-base_dino-5scale_8xb1-ms-12e_coco": 110,
    "transnext-tiny_mask-rcnn-fpn_8xb2-1x_coco": 47.9,
    "transnext-small_mask-rcnn-fpn_8xb2-1x_coco": 69.3,
    "transnext-base_mask-rcnn-fpn_8xb2-1x_coco": 109.2,
    "transnext-tiny_upernet_8xb2-160k_ade20k-512x512": 59,
    "transnext-small_upernet_8xb2-160k_ade20k-512x512": 80,
    "transnext-base_upernet_8xb2-160k_ade20k-512x512": 121,
    "transnext-tiny_mask2former_8xb2-160k_ade20k-512x512": 47.5,
    "transnext-small_mask2former_8xb2-160k_ade20k-512x512": 69.0,
    "transnext-base_mask2former_8xb2-160k_ade20k-512x512": 109,
    "van-b0_retinanet-fpn_8xb2-1x_coco": 13.4,
    "van-b1_retinanet-fpn_8xb2-1x_coco": 23.6,
    "van-b2_retinanet-fpn_8xb2-1x_coco": 36.3,
    "van-b3_retinanet-fpn_8xb2-1x_coco": 54.5,
    "van-b0_mask-rcnn-fpn_8xb2-1x_coco": 23.9,
    "van-b1_mask-rcnn-fpn_8xb2-1x_coco": 33.5,
    "van-b2_mask-rcnn-fpn_8xb2-1x_coco": 46.2,
    "van-b3_mask-rcnn-fpn_8xb2-1x_coco": 64.4,
    "van-b2_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco": 84,
    "van-b0_semfpn_8xb4-40k_ade20k-512x512": 8,
    "van-b1_semfpn_8xb4-40k_ade20k-512x512": 18,
    "van-b2_semfpn_8xb4-40k_ade20k-512x512": 30,
    "van-b3_semfpn_8xb4-40k_ade20k-512x512": 49,
    "van-b2_upernet_8xb2-160k_ade20k-512x512": 57,
    "van-b3_upernet_8xb2-160k_ade20k-512x512": 75,
    "van-b4_upernet_8xb2-160k_ade20k-512x512": 90,
    "van-b6-in21k_upernet_8xb2-160k_ade20k-512x512": 231,
}


def test_every_family_has_both_tasks():
    assert {(path.parents[1].name, path.parent.name) for path in DENSE} == {
        (family, task) for family in FAMILIES for task in ("detection", "segmentation")
    }
    assert sorted(STEPS) == FAMILIES


@pytest.mark.parametrize("path", DENSE, ids=ids)
def test_parts_fit_and_agree_with_the_name(path, tmp_path, monkeypatch):
    cfg = load(path)
    monkeypatch.setattr(PyramidBackbone, "init_weights", lambda self: None)  # slow, and of no use without memory
    monkeypatch.chdir(tmp_path)  # no data there
    with pytest.raises(FileNotFoundError, match=r"no data folder .*(cocodataset\.org|ADE20K is at)"):
        run.check_config(cfg)  # which has found nothing wrong with the model before
    with torch.device("meta"):
        network = build(cfg)
    # van-b0_mask-rcnn-fpn_8xb2-1x_coco.py is of van_b0 in MaskRCNN, for 8 devices with 2 images each, 12 epochs
    name, method, training, *_ = path.stem.split("_")
    assert name.startswith(cfg.model.backbone.model.split(".")[0].replace("_", "-"))
    kind = type(network.decode_head if hasattr(network, "decode_head") else network).__name__
    assert (
        kind
        == {
            "retinanet-fpn": "RetinaNet",
            "mask-rcnn-fpn": "MaskRCNN",
            "mask-rcnn-sfp": "MaskRCNN",
            "cascade-mask-rcnn-fpn": "CascadeRCNN",
            "dino-4scale": "DINO",
            "dino-5scale": "DINO",
            "semfpn": "FPNHead",
            "upernet": "UPerHead",
            "mask2former": "Mask2FormerHead",
        }[method]
    )
    devices, batch, schedule = re.fullmatch(r"(\d+)xb(\d+)-(?:ms-|lsj-)?(\w+)", training).groups()
    assert cfg.train_dataloader.batch_size == int(batch)
    assert cfg.auto_scale_lr.base_batch_size == int(devices) * int(batch)
    length = {"x": 12, "e": 1, "k": 1000}[schedule[-1]] * int(schedule[:-1])
    assert cfg.train_cfg.get("max_epochs", cfg.train_cfg.get("max_iters")) == length
    assert cfg.default_hooks.checkpoint.get("by_epoch", True) == ("max_epochs" in cfg.train_cfg)
    # the necks and heads read what the backbone gives
    widths = network.backbone.out_channels
    first = (necks_of(cfg.model) or [cfg.model.decode_head])[0]
    single = "embed_dim" in first
    if single:
        assert [first.embed_dim] * len(widths) == widths
    else:
        assert list(first.in_channels) == widths
    strides = [network.backbone.model.feature_info[i]["reduction"] for i in network.backbone.out_indices]
    pyramid = [stride / scale for stride, scale in zip(strides, (4, 2, 1, 0.5))] if single else strides
    assert pyramid == [4, 8, 16, 32][-len(pyramid) :]  # of the anchors, regions and heads; DINO may begin at 8
    if "auxiliary_head" in cfg.model:
        assert cfg.model.auxiliary_head.in_channels == widths[cfg.model.auxiliary_head.in_index]
    if path.stem in PUBLISHED_PARAMETERS:
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        published = PUBLISHED_PARAMETERS[path.stem]
        assert millions == pytest.approx(published, rel=0.02, abs=0.5 if isinstance(published, int) else 0)


@pytest.mark.parametrize("path", DENSE, ids=ids)
def test_docstring_tells_source_and_status(path):
    text = " ".join(path.read_text().split('"""')[1].split())
    assert re.search(r"Source: arXiv:\d{4}\.\d{5}", text)
    unit = r"[\d.]+ box AP(, [\d.]+ mask AP)?" if path.parent.name == "detection" else r"[\d.]+ mIoU"
    assert re.search(rf"\((paper|repository)(, [^()]+)?: ({unit}\b.*|no such result)\)", text)
    assert "Here: not trained" in text or re.search(rf"Here: {unit}", text)
    assert re.search(r"Needs: \d+ GPUs with \d+ GB \(estimate\)", text)
    for other in re.findall(r"\S+\.py", text.partition("Run: ")[2]):
        assert any(folder.joinpath(other).is_file() for folder in (ROOT, path.parent)), other


SLOW_BACKBONES = [path for path in DENSE if {"mask2former", "dino-4scale", "dino-5scale"} & {*path.stem.split("_")}]
BIASES_DECAY = ("dinat_large_k11_384",)  # Detectron2 exempts norms and tables only


@pytest.mark.parametrize("path", SLOW_BACKBONES, ids=ids)
def test_backbones_of_query_decoders_learn_slowly_and_decay_weights_alone(path):
    """MMEngine takes the longest key that fits a name: one shorter than "backbone" would have no effect."""
    cfg = load(path)
    with torch.device("meta"):
        network = build(cfg)
    model, rate = network.backbone.model, cfg.optim_wrapper.optimizer.lr
    spared = {f"backbone.model.{name}" for name in model.no_weight_decay()}
    names = {id(p): name for name, p in network.named_parameters()}
    biases_decay = cfg.model.backbone.model.split(".")[0] in BIASES_DECAY
    slow = set()
    for group in build_optim_wrapper(network, cfg.optim_wrapper).optimizer.param_groups:
        for p in group["params"]:
            name = names[id(p)]
            if not name.startswith("backbone."):
                assert group["lr"] == rate, name
                continue
            if group["lr"] == pytest.approx(rate / 10):
                slow.add(name)
            bias = name.endswith("bias") and "norm" not in name
            decays = name not in spared and (p.ndim > 1 or bias and biases_decay)
            assert group["weight_decay"] == (cfg.optim_wrapper.optimizer.weight_decay if decays else 0), name
    fast = {name for name in names.values() if name.startswith("backbone.")} - slow
    ends = ("backbone.model.stages.3.downsample.", "backbone.model.stages.3.norm.")  # the authors' keys end before them
    assert all(name.startswith(ends) for name in fast) and bool(fast) == path.stem.startswith("transnext")


# Training -------------------------------------------------------------------------------------------------------------

# One config a family and task, so that every method and every schedule is among them.
STEPS = {
    "attnet": ("mask-rcnn-fpn", "upernet"),
    "davit": ("retinanet-fpn_8xb2-ms-1x_coco", "upernet"),
    "halonet": ("mask-rcnn-fpn", "upernet"),
    "illama": ("mask-rcnn-sfp", "upernet"),
    "litv2": ("mask-rcnn-fpn_8xb2-1x_coco", "semfpn"),
    "nat": ("cascade-mask-rcnn-fpn", "upernet"),
    "sgformer": ("mask-rcnn-fpn", "upernet"),
    "stvit": ("cascade-mask-rcnn-fpn", "upernet"),
    "transnext": ("dino-4scale", "mask2former"),
    "van": ("retinanet-fpn", "semfpn"),
}
SIZE_KEYS = ("scale", "scales", "crop_size", "stride", "size", "pad_size_divisor", "img_size", "pos_bias_size")
SIZES = {"train": [(120, 160), (120, 160)], "val": [(120, 160), (160, 90)]}  # (height, width)


@pytest.fixture(scope="module")
def small_sets(tmp_path_factory) -> dict[str, Path]:
    """COCO and ADE20K as they are unpacked, with two images a split."""
    coco, ade = (tmp_path_factory.mktemp(name) for name in ("coco", "ade"))
    rng = np.random.default_rng(0)
    (coco / "annotations").mkdir()
    for split, sizes in SIZES.items():
        images, annotations = [], []
        photos, maps = (
            (ade / part / f"{split}ing".replace("valing", "validation")) for part in ("images", "annotations")
        )
        for folder in (coco / f"{split}2017", photos, maps):
            folder.mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            photo = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
            for folder in (coco / f"{split}2017", photos):
                photo.save(folder / f"{number}.jpg")
            labels = np.repeat(np.arange(height, dtype=np.uint8)[:, None] // 40, width, 1)  # 0 is not labelled
            Image.fromarray(labels).save(maps / f"{number}.png")
            images.append(dict(id=number, file_name=f"{number}.jpg", height=height, width=width))
            for x, y, side in ((5, 5, 40), (45, 60, 44)):
                corners = [x, y, x + side, y, x + side, y + side, x, y + side]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=1 + len(annotations) % 2,
                        bbox=[x, y, side, side],
                        area=side**2,
                        segmentation=[corners],
                        iscrowd=0,
                    )
                )
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(coco_classes())]
        content = dict(images=images, annotations=annotations, categories=categories)
        (coco / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return {"detection": coco, "segmentation": ade}


def coco_classes() -> tuple[str, ...]:
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO["classes"]


def scaled_down(value, key: str = ""):
    """A config with all image sizes divided by 8."""
    if isinstance(value, dict):
        return ConfigDict({k: scaled_down(v, k) for k, v in value.items()})
    if key in SIZE_KEYS and isinstance(value, int):
        return max(value // 8, 32)
    if isinstance(value, list | tuple):
        return type(value)(scaled_down(v, key) for v in value)
    return value


def shrink(cfg: Config, family: str, data: Path, work_dir: Path) -> Config:
    """The same run with the family's tiny model, images an eighth of the size, slim heads and two images."""
    cfg = Config(scaled_down(cfg._cfg_dict))
    model = cfg.model
    model.backbone.update(model=f"test_{family}")
    if family == "illama":
        model.backbone.out_indices = (0, 1, 2, 3)
    model.backbone.pop("init_cfg", None)
    model.backbone.pretrained = False
    widths = ZooBackbone(**{k: v for k, v in model.backbone.items() if k != "type"}).out_channels
    for part in necks_of(model):
        part.update(dict(embed_dim=widths[0]) if "embed_dim" in part else dict(in_channels=widths))
    if "decode_head" in model:
        model.decode_head.channels = 32
        if "auxiliary_head" in model or not necks_of(model):
            model.decode_head.in_channels = widths
    if "auxiliary_head" in model:
        model.auxiliary_head.in_channels = widths[2]
    if "num_queries" in model:
        model.num_queries = 30  # the best of all pixels, of which there are few
    if "roi_head" in model:
        heads = model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.update(fc_out_channels=32, conv_out_channels=32)
        model.roi_head.mask_head.conv_out_channels = 32
        stages = model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16
        model.train_cfg.rpn.allowed_border = -1  # most anchors reach beyond images this small
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 20
        model.test_cfg.rcnn.max_per_img = 10
    if "decode_head" not in model:
        model.test_cfg.get("rcnn", model.test_cfg).score_thr = 0.0  # else an untrained head finds nothing
    for name in ("train_dataloader", "val_dataloader"):
        cfg[name].update(num_workers=0, persistent_workers=False)
        cfg[name].dataset.data_root = str(data)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.val_interval = 1
    if cfg.val_evaluator.get("ann_file"):
        cfg.val_evaluator.ann_file = str(data / "annotations/instances_val2017.json")
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.custom_hooks = [dict(type="StopAfterOne")]
    cfg.work_dir = str(work_dir)
    return cfg


@HOOKS.register_module(force=True)
class StopAfterOne(Hook):
    """End training after one iteration, whatever the schedule's length."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        runner.train_loop.stop_training = True


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("family", STEPS)
def test_trains_evaluates_and_predicts(family, task, small_sets, tmp_path):
    """One iteration of the config's own loop and pipelines, its evaluation, and predictions at two shapes."""
    method = STEPS[family][task == "segmentation"]
    path = next(p for p in DENSE if p.parts[-3:-1] == (family, task) and f"_{method}" in p.stem)
    cfg = shrink(load(path), family, small_sets[task], tmp_path)
    run.check_config(cfg)
    cfg.default_hooks.checkpoint = None
    torch.manual_seed(0)
    runner = run.build_runner(cfg)
    learned = set()
    for name, parameter in runner.model.named_parameters():
        parameter.register_hook(lambda grad, name=name: learned.add(name))
    runner.train()
    assert {name for name, _ in runner.model.named_parameters()} == learned
    assert np.isfinite(runner.message_hub.get_scalar("train/loss").current())
    metric = "val/mIoU" if task == "segmentation" else "val/coco/bbox_mAP"
    assert 0 <= runner.message_hub.get_scalar(metric).current() <= 100

    shapes = []
    for batch in runner.val_dataloader:
        (sample,) = runner.model.val_step(batch)
        shapes.append(sample.ori_shape)
        if task == "segmentation":
            assert sample.pred_sem_seg.data.shape == (1, *sample.ori_shape)
            continue
        found, (height, width) = sample.pred_instances, sample.ori_shape
        limits = torch.tensor([width, height, width, height])
        assert ((found.bboxes > -0.01) & (found.bboxes < limits + 0.01)).all()
        if "masks" in found:
            assert found.masks.shape == (len(found), height, width)
    assert shapes == SIZES["val"]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_is_idle_whatever_the_stages(family):
    """Distributed training runs without a search for unused parameters."""
    image = torch.rand(1, 3, 64, 96)
    for count in range(1, 5):
        for indices in combinations(range(4), count):
            options = dict(dynamic_img_size=True) if family == "illama" else {}
            backbone = ZooBackbone(f"test_{family}", out_indices=indices, out_norm=True, **options)
            sum(y.square().mean() for y in backbone(image)).backward()
            idle = [name for name, p in backbone.named_parameters() if p.grad is None]
            assert not idle, (indices, idle)


def test_litv2s_config_equals_the_official_pyramid(tmp_path):
    """Weights of the authors' detection code, loaded as a checkpoint: norms on all maps but the first, HiLo padded."""
    reference = load_reference("litv2_s_detection_203x261")
    torch.save({"state_dict": official_state_dict(reference)}, tmp_path / "official.pth")
    options = load(ROOT / "configs/litv2/detection/litv2-s_mask-rcnn-fpn_8xb2-1x_coco.py").model.backbone
    options.update(pretrained=False, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "official.pth")))
    backbone = MODELS.build(options).eval()
    backbone.init_weights()
    with torch.no_grad():
        maps = backbone(reference_input(reference))
    for i, y in enumerate(maps):
        assert_matches(y, reference["outputs"][f"level{i} (B, C, H, W)"])
