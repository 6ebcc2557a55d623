"""From a config to a runner, with everything checked that can be wrong before the first iteration."""

import difflib
import inspect
import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed, sync_random_seed
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn

from backbones.configs import find_config
from backbones.mm.backbone import ZooBackbone
from backbones.mm.training.loading import dicts, use_load_image
from backbones.mm.training.runner import ResumableRunner
from backbones.mm.training.seeding import seed_dataloader
from backbones.mm.training.sharding import ShardedRunner
from backbones.weights import compare, convert_state_dict, load_checkpoint
from backbones.weights.fetch import is_remote
from backbones.weights.pretrained import tag_config

__all__ = [
    "build_runner",
    "check_class_counts",
    "check_config",
    "check_file",
    "check_work_dir",
    "class_names",
    "latest_checkpoint",
    "leaf_configs",
    "load_config",
    "load_weights",
]

HINTS = {
    "ImageNet": "ImageNet-1K is free for research after registration at image-net.org; unpack it to "
    "{root}/train/<class>/*.JPEG and {root}/val/<class>/*.JPEG",
    "CocoDataset": "COCO 2017 is at cocodataset.org; unpack train2017.zip, val2017.zip and "
    "annotations_trainval2017.zip in {root}",
    "LatentImages": "`backbones encode-latents` writes it from a folder of images",
    "ADE20KDataset": "ADE20K is at data.csail.mit.edu/places/ADEchallenge; unpack ADEChallengeData2016.zip so that "
    "{root} has images and annotations",
}
# They write their files where these are missing.
SELF_MADE = {"Digits", "DigitScenes"}
# What the classes of datasets call the folder of their images in ``data_prefix``.
IMAGE_FOLDERS = {"CocoDataset": "img", "BaseSegDataset": "img_path", "CustomDataset": "img_path"}
# Parts of a model whose class counts are not the dataset's.
OTHER_CLASSES = {"rpn_head", "semantic_head", "data_preprocessor", "train_cfg", "test_cfg"}


def load_config(name: str | os.PathLike, options: dict[str, Any] | None = None) -> Config:
    """Read an OpenMMLab config, apply ``options`` (dotted keys) and import what it asks for.

    Its pipelines read images with :class:`backbones.mm.training.loading.LoadImage`.

    Args:
        name: file or name of a shipped config, see :func:`backbones.configs.find_config`.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it does not parse, or has nothing by the name that an option begins with.
    """
    from mmengine.config import utils

    utils.MODULE2PACKAGE["mmseg"] = "mmseg"  # MMEngine knows only the original distribution's name for it
    path = find_config(name)
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, KeyError, NameError, AssertionError) as error:
        raise ValueError(f"{path} is no valid config: {error}") from error
    known = {*cfg, *inspect.signature(Runner.__init__).parameters}
    for option in options or {}:
        key = option.partition(".")[0]
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(cfg))}"
            raise ValueError(f"{path} has no {key}, which {option} is to change; {hint}")
    if options:
        cfg.merge_from_dict(options)
    use_load_image(cfg)
    return cfg


def check_config(cfg: Config, training: bool = True) -> None:
    """Find mistakes that would otherwise surface late or obscurely; builds the backbone without memory.

    What is in annotations and folders is looked at by :func:`backbones.mm.training.matching.match_data`.

    Raises:
        ValueError: unknown model or option, a neck or head for other widths, class counts that contradict each other or
            the dataset's, numbers out of range, one class with a loss that is then always 0, checkpoints that a killed
            run could not go on from, a truncated checkpoint.
        FileNotFoundError: a data folder, an annotation file or a checkpoint is missing.
    """
    if "model" not in cfg:
        raise ValueError(f"{cfg.filename} has no model: name a config that has one in its _base_")
    _check_numbers(cfg, training)
    model = cfg.model
    if model.get("backbone", {}).get("type") == "ZooBackbone":
        _check_model(model, cfg.get("data_preprocessor"))
    _check_single_class(model)
    if model.get("type") == "DiffusionTrainer":
        _check_generator(model)
    for name in ("train_dataloader", "val_dataloader") if training else ("test_dataloader",):
        if cfg.get(name):
            for path, dataset in leaf_configs(cfg[name].dataset, f"{name}.dataset"):
                if dataset.type.split(".")[-1] not in SELF_MADE:
                    _check_dataset(cfg, path, dataset)
    for name in ("val",) if training else ("test",):
        if cfg.get(f"{name}_dataloader"):
            _check_evaluator(cfg, name)
    if training and cfg.get("train_cfg"):
        _check_intervals(cfg)
    for name in ("train_dataloader", "val_dataloader") if training else ("test_dataloader",):
        if cfg.get(name) and model.get("backbone", {}).get("type") == "ZooBackbone":
            _check_channels(cfg, f"{name}.dataset", cfg[name].dataset)
    if cfg.get("load_from"):
        check_file(cfg.load_from)
    checkpoint = (model.get("backbone", {}).get("init_cfg") or {}).get("checkpoint")
    if training and checkpoint:
        check_file(checkpoint)


def _check_model(model: Config, data_preprocessor: Config | None = None) -> None:
    options = {k: v for k, v in model.backbone.items() if k not in ("type", "pretrained", "init_cfg")}
    if "model" not in options:
        raise ValueError("the backbone lacks a model: give its name, backbone=dict(model='van_b0')")
    with torch.device("meta"):
        try:
            backbone = ZooBackbone(**options)
        except TypeError as error:  # an option that does not exist
            raise ValueError(str(error)) from error
    if backbone.out_indices is None:
        classes = backbone.model.num_classes
        expected = (model.get("data_preprocessor") or data_preprocessor or {}).get("num_classes", classes)
        if classes != expected:
            raise ValueError(
                f"the model has {classes} classes, the data {expected}: set model.backbone.num_classes={expected}"
            )
        return
    widths: list[int] | None = backbone.out_channels
    source = f"{backbone.model_name} with out_indices={backbone.out_indices}"
    necks = model.get("neck") or []
    for i, neck in enumerate(necks if isinstance(necks, (list, tuple)) else [necks]):
        name = f"neck[{i}]" if isinstance(necks, (list, tuple)) else "neck"
        if neck.get("type", "").endswith("Feature2Pyramid") and widths:
            _check_widths(f"{name}.embed_dim", neck.get("embed_dim"), set(widths), source)
            continue  # four maps of the same width
        if isinstance(neck.get("in_channels"), (list, tuple)) and widths:
            _check_widths(f"{name}.in_channels", list(neck.in_channels), widths, source)
        outputs = neck.get("out_channels")
        widths = [outputs] * neck.get("num_outs", len(widths)) if widths and isinstance(outputs, int) else None
        source = name
    for name, head in _parts(model):
        reads = head.get("in_channels")
        if not widths or reads is None or re.match(r"neck\b", name):
            continue
        if isinstance(reads, (list, tuple)):
            indices = head.get("in_index", range(len(widths)))
            indices = indices if isinstance(indices, (list, tuple, range)) else range(len(widths))
            _check_widths(f"{name}.in_channels", list(reads), [widths[i] for i in indices if i < len(widths)], source)
        elif name in ("rpn_head", "bbox_head") or "in_index" in head:
            index = head.get("in_index", -1)
            if isinstance(index, int) and index < len(widths):
                _check_widths(f"{name}.in_channels", reads, {widths[index]}, source)


def _check_single_class(model: Config) -> None:
    """Softmax over one class is 1, and cross entropy 0, whatever the model computes."""
    head = model.get("head") or {}
    parts = [(name, part, part.get("loss_decode")) for name, part in _parts(model) if re.match(r"(decode|aux)", name)]
    if "MultiLabel" not in head.get("type", ""):
        name = "backbone" if model.get("backbone", {}).get("out_indices", ()) is None else "head"
        parts.append((name, model.get(name) or {}, head.get("loss")))
    for name, part, losses in parts:
        for loss in losses if isinstance(losses, (list, tuple)) else [losses or {}]:
            softmax = loss.get("type", "CrossEntropyLoss") == "CrossEntropyLoss" and not loss.get("use_sigmoid")
            if part.get("num_classes") == 1 and softmax:
                raise ValueError(
                    f"model.{name}.num_classes is 1, and cross entropy over one class is always 0: set it to 2 and "
                    "count the rest as a class (background), or set use_sigmoid=True in its loss"
                )


def _check_generator(model: Config) -> None:
    with torch.device("meta"):
        try:
            MODELS.get(model.type)(**{key: value for key, value in model.items() if key != "type"})
        except (KeyError, TypeError) as error:  # an option that does not exist, or a model without a name
            raise ValueError(f"model: {error}") from error


def _check_widths(name: str, found: int | list[int] | None, given: list[int] | set[int], source: str) -> None:
    wanted = given if isinstance(given, list) else given.pop() if len(given) == 1 else sorted(given)
    if found != wanted:
        part, _, key = name.rpartition(".")
        raise ValueError(
            f"model.{name} is {found}, but {source} gives {wanted}: write {part.split('[')[0]}=dict({key}={wanted})"
        )


def _parts(model: Config, prefix: str = "") -> Iterator[tuple[str, Config]]:
    """Name and config of everything inside a model's config: ``roi_head.bbox_head[1]``."""
    for key, value in model.items():
        for i, part in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(part, dict):
                name = f"{prefix}{key}[{i}]" if isinstance(value, (list, tuple)) else f"{prefix}{key}"
                yield name, part
                yield from _parts(part, f"{name}.")


def check_class_counts(model: Config, classes: int, source: str) -> None:
    """Compare the class counts of a model's config with the data's.

    Args:
        model: config of an OpenMMLab model.
        classes: how many classes the data have.
        source: what the data are called in the message.

    Raises:
        ValueError: a head, or a backbone that is a whole classifier, has another number.
    """
    for name, part in _parts(model):
        pyramid = name == "backbone" and part.get("out_indices", ()) is not None
        if pyramid or OTHER_CLASSES & set(re.split(r"\W", name)):
            continue
        if part.get("num_classes", classes) != classes:
            raise ValueError(
                f"model.{name}.num_classes is {part.num_classes}, but {source} has {classes} classes: "
                f"set model.{name}.num_classes={classes}"
            )


def leaf_configs(dataset: Config, path: str) -> Iterator[tuple[str, Config]]:
    """Place in the config and config of the datasets inside wrappers (repeat, concat, class balance)."""
    for key in ("dataset", "datasets"):
        if key in dataset:
            nested = dataset[key]
            for part in nested if isinstance(nested, (list, tuple)) else [nested]:
                yield from leaf_configs(part, f"{path}.{key}")
            return
    yield path, dataset


def _check_channels(cfg: Config, path: str, dataset: Config) -> None:
    """The model reads as many channels as the loader and the preprocessor give."""
    wanted = cfg.model.backbone.get("in_chans", 3)
    means = len((cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}).get("mean") or ())
    for step in dicts(dataset):
        color_type = step.get("color_type", "color")
        if str(step.get("type")).rpartition(".")[2] not in ("LoadImage", "LoadImageFromFile"):
            continue
        given = max(1 if color_type.startswith("grayscale") else 3, means)  # a grey image minus three means has three
        if given != wanted and color_type != "unchanged":
            remedy = {
                1: "write LoadImageFromFile(color_type='grayscale') and one mean and std in data_preprocessor",
                3: "write LoadImageFromFile(color_type='color')",
            }
            raise ValueError(
                f"model.backbone.in_chans is {wanted}, but images of {path} have {given} channels "
                f"(color_type={color_type!r}, {means} means): {remedy.get(wanted, f'set in_chans={given}')}"
            )


def _check_prefix(path: str, dataset: Config, kind: type) -> None:
    """The folder of the images is under the name that the dataset's class reads; OpenMMLab has two."""
    names = [IMAGE_FOLDERS[base.__name__] for base in kind.__mro__ if base.__name__ in IMAGE_FOLDERS]
    prefix = dataset.get("data_prefix", {} if "img" in names else "")
    if names and isinstance(prefix, dict) and names[0] not in prefix:
        raise ValueError(
            f"{path} has data_prefix={dict(prefix)}, but {kind.__name__} finds its images under {names[0]!r}: "
            f"write data_prefix=dict({names[0]}=DIR)"
        )


def _check_dataset(cfg: Config, path: str, dataset: Config) -> None:
    root = dataset.get("data_root") or ""
    kind = dataset.type.split(".")[-1]
    hint = HINTS.get(kind, "put the data there").format(root=root)
    hint += f", or name another with --cfg-options {path}.data_root=DIR"
    prefix = dataset.get("data_prefix", dataset.get("split", "") if kind == "ImageNet" else "")
    folders = [Path(root, part or "") for part in (prefix.values() if isinstance(prefix, dict) else [prefix])]
    for folder in folders if root or prefix else []:
        if not folder.is_dir():
            raise FileNotFoundError(f"no data folder {str(folder)!r}. {hint}")
    annotations = Path(root, dataset.ann_file) if dataset.get("ann_file") else None
    if annotations and not annotations.exists():
        raise FileNotFoundError(f"no annotation file {str(annotations)!r}. {hint}")

    if found := _dataset_class(cfg, dataset):
        _check_prefix(path, dataset, found)
    classes = class_names(cfg, path, dataset)
    if classes:
        check_class_counts(cfg.model, len(classes), f"{path} ({kind})")


def class_names(cfg: Config, path: str, dataset: Config) -> Sequence[str] | None:
    """Names of a dataset's classes as far as they are known before it is read.

    Raises:
        ValueError: If they are one text that names no file, or one name is there twice.
    """
    classes = (dataset.get("metainfo") or {}).get("classes") or dataset.get("classes")
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            raise ValueError(
                f"the classes of {path} are {classes!r}, one text, and no file has that name: write "
                f"metainfo=dict(classes=({classes!r},)), with the comma, for one class"
            )
        classes = Path(classes).read_text().splitlines()
    if classes is None:  # those of a known data set; ImageNet has two cranes
        classes = getattr(_dataset_class(cfg, dataset), "METAINFO", {}).get("classes")
    elif twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ValueError(f"{path} has classes of one name: {twice[:5]}")
    return classes


def _dataset_class(cfg: Config, dataset: Config) -> type | None:
    scope = cfg.get("default_scope") or "mmengine"
    return DATASETS.get(dataset.type if "." in dataset.type else f"{scope}.{dataset.type}")


def _check_evaluator(cfg: Config, name: str) -> None:
    evaluators = cfg.get(f"{name}_evaluator") or []
    self_made = [d.type in SELF_MADE for _, d in leaf_configs(cfg[f"{name}_dataloader"].dataset, "")]
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        file = evaluator.get("ann_file")
        if file and not any(self_made) and not os.path.isfile(file):
            raise FileNotFoundError(f"no annotation file {file!r}: name another with {name}_evaluator.ann_file=FILE")
        parts = [cfg.model.get(part) or {} for part in ("head", "backbone")]  # which may be a whole classifier
        classes = next((part["num_classes"] for part in parts if part.get("num_classes")), None)
        ranks = evaluator.get("topk") or ()
        most = max([ranks] if isinstance(ranks, int) else ranks, default=0)
        if classes and most > classes:
            raise ValueError(
                f"{name}_evaluator.topk is {ranks}, but the model has {classes} classes: set {name}_evaluator.topk=1"
            )


def _check_numbers(cfg: Config, training: bool) -> None:
    """Numbers of things, which a command line may have anything for."""
    names = ["test_dataloader.batch_size"]
    if training:
        names = [f"train_cfg.{key}" for key in ("max_epochs", "max_iters", "val_interval")]
        names += ["train_dataloader.batch_size", "val_dataloader.batch_size"]
    for name in names:
        part, _, key = name.partition(".")
        value = (cfg.get(part) or {}).get(key, 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, and has to be a whole number, 1 or more")
    rate = ((cfg.get("optim_wrapper") or {}).get("optimizer") or {}).get("lr", 0.0)
    if training and (not isinstance(rate, int | float) or rate < 0):
        raise ValueError(f"optim_wrapper.optimizer.lr is {rate!r}, and has to be a number, 0 or more")


def _check_intervals(cfg: Config) -> None:
    """Checkpoints and metrics are counted as the training loop counts."""
    by_epoch = cfg.train_cfg.get("by_epoch", cfg.train_cfg.get("type") == "EpochBasedTrainLoop")
    for hook, key in (("checkpoint", "by_epoch"), ("logger", "log_metric_by_epoch")):
        options = cfg.get("default_hooks", {}).get(hook)
        if options and options.get(key, True) != by_epoch:
            raise ValueError(
                f"default_hooks.{hook}.{key} is {options.get(key, True)}, but training counts "
                f"{'epochs' if by_epoch else 'iterations'}: set default_hooks.{hook}.{key}={by_epoch}"
            )
    checkpoints = cfg.get("default_hooks", {}).get("checkpoint") or {}  # None turns a hook off
    if checkpoints.get("max_keep_ckpts") == 1:
        raise ValueError(
            "default_hooks.checkpoint.max_keep_ckpts is 1, and the old one is deleted before the new one is written: "
            "keep 2 or more"
        )


def check_file(path: str) -> None:
    """Cheap check of a checkpoint file: there, and not cut off. Addresses and pretrained tags are not looked at.

    Raises:
        FileNotFoundError, ValueError: it is not, or it is.
    """
    if is_remote(path) or tag_config(path):
        return
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path!r}")
    with open(path, "rb") as file:
        start = file.read(2)
    # today's torch files are zip archives, whose directory stands at the end
    if not start or (start == b"PK" and not zipfile.is_zipfile(path)):
        raise ValueError(f"{path} ({os.path.getsize(path)} bytes) is truncated: fetch or write it again")


def check_work_dir(path: str | os.PathLike) -> None:
    """Make the folder of a run and see whether files can be written there.

    Raises:
        ValueError: they cannot.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(path)) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(f"cannot write to {str(path)!r} ({error.strerror}): name another --work-dir") from error


def latest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """The checkpoint that was written last in ``work_dir``, None if there is none.

    MMEngine notes it; without the note, or if that file is gone, it is that of the furthest iteration or epoch.
    """
    note = Path(work_dir, "last_checkpoint")
    if note.is_file() and (noted := Path(work_dir, Path(note.read_text().strip()).name)).is_file():
        return str(noted)  # by its name: the folder may have been moved
    found = [
        (int(m[1]), str(p))
        for p in Path(work_dir).glob("*.pth")
        if (m := re.fullmatch(r"(?:epoch|iter)_(\d+)", p.stem))
    ]
    return max(found)[1] if found else None


def build_runner(cfg: Config, sharded: bool = False) -> Runner:
    """MMEngine's runner, whose training can be repeated and resumed to the bit, see :mod:`.seeding`.

    Distributed without a GPU, it talks through gloo.

    Args:
        cfg: config of the run.
        sharded: divide the model among the processes.
    """
    if cfg.get("launcher", "none") != "none" and not is_distributed():
        if torch.cuda.is_available():
            init_dist(cfg.launcher, **cfg.get("env_cfg", {}).get("dist_cfg", {}))
        else:
            # MMEngine would call torch.cuda.set_device and give the process's rank as a device
            torch.distributed.init_process_group("gloo")
            cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    cfg.setdefault("randomness", {})
    if cfg.randomness.get("seed") is None:
        cfg.randomness.seed = sync_random_seed()
    if cfg.get("train_dataloader"):
        seed_dataloader(cfg.train_dataloader, cfg.randomness.seed)
    return (ShardedRunner if sharded else ResumableRunner).from_cfg(cfg)


def load_weights(model: nn.Module, path: str) -> dict[str, Any]:
    """Load a checkpoint completely or not at all; returns what stands beside the weights (``meta``).

    Args:
        model: an OpenMMLab model.
        path: file, URL or pretrained tag; written by training such a model, or with the backbone (a whole classifier,
            or a detector's or segmentor's) in any layout of its family.

    Raises:
        ValueError: entries are missing or have other shapes (another number of classes, another variant).
    """
    checkpoint = load_checkpoint(path)
    weights, own = checkpoint.get("state_dict", checkpoint), model.state_dict()
    if not own.keys() <= weights.keys() and isinstance(getattr(model, "backbone", None), ZooBackbone):
        whole = model.backbone.out_indices is None
        converted = convert_state_dict(checkpoint, model.backbone.model, strict=whole)
        # a pyramid's output norms are beside the model; neck and heads have the same names everywhere
        names = {key: f"backbone.{'' if key.startswith('out_norms.') else 'model.'}{key}" for key in converted}
        heads = {} if whole else {key: value for key, value in weights.items() if not key.startswith("backbone.")}
        weights = heads | {names[key]: value for key, value in converted.items()}
    compare(weights, own).only(own.__contains__).require(path, "the config", most=6)
    model.load_state_dict({key: weights[key] for key in own})
    return checkpoint.get("meta") or {}
