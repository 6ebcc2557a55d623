"""Which models the package has: variants registered as data, listed as timm lists, built with near names at hand."""

import dataclasses
import difflib
import functools
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Protocol, TypeVar

import timm
from timm.models import build_model_with_cfg, get_arch_name, register_model
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor, nn

from backbones.weights import convert_checkpoint
from backbones.weights.pretrained import pretrained_overlay

_logger = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=nn.Module, covariant=True)

_variants: dict[str, Any] = {}  # registered name -> model class


class EntryPoint(Protocol[_Model]):
    """A variant by its name, as ``van_b0(pretrained=True, num_classes=10)``."""

    __name__: str

    def __call__(self, pretrained: bool = False, **options: Any) -> _Model:
        """Build the variant.

        Args:
            pretrained: Load published weights.
            options: Fields of the family's config, parameters of its model, and what ``timm.create_model`` takes.
        """


class Features(FeatureGetterNet):
    """What ``features_only=True`` gives: images -> maps (B, C, H, W). timm's, with checkpointing."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.model.set_grad_checkpointing(enable)


def fit_checkpoint(
    state_dict: dict[str, Any], model: nn.Module, out_indices: int | Sequence[int] | None = None
) -> dict[str, Tensor]:
    """What timm calls on a published checkpoint before loading it: renames, and stops at what timm would not name.

    timm loads loosely as soon as classes or channels differ, or features alone are wanted. Then only the classifier
    may be missing, and what stands behind the last feature.

    Args:
        state_dict: The checkpoint.
        model: The model that it is for.
        out_indices: Features that the model is for, None if it is for all it can do.

    Raises:
        ValueError: If another entry is missing, of another shape or, in the model's stem or stages, unknown.
    """
    conversion = convert_checkpoint(state_dict, model)
    own = list(model.state_dict())
    config = model.pretrained_cfg
    optional = {f"{config.get('classifier')}.{kind}" for kind in ("weight", "bias")}
    if out_indices is not None:
        _, last = feature_take_indices(len(model.feature_info), out_indices)
        needed = f"{model.feature_info[last]['module']}."
        end = max(i for i, key in enumerate(own) if key.startswith(needed))
        optional |= set(own[end + 1 :])
    if model.in_chans != config["input_size"][0]:
        optional.add(f"{config['first_conv']}.weight")  # which timm adapts
    body = {name for name, _ in model.named_children()} - {"head"}
    fit = conversion.fit.only(lambda key: key in own or key.partition(".")[0] in body).only(lambda k: k not in optional)
    fit.require("the checkpoint", config.get("architecture") or type(model).__name__)
    return conversion.weights


def _check_options(name: str, options: set[str], given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TypeError(f"{name} has no option {key!r}; {hint}its options are {', '.join(sorted(options))}")


def _check_values(name: str, given: Mapping[str, Any]) -> None:
    """Numbers that would be taken and fail elsewhere, or never."""
    for key, low in (("num_classes", 0), ("in_chans", 1)):
        value = given.get(key, low)
        if not isinstance(value, Integral) or value < low:
            raise ValueError(f"{key} of {name} is a whole number, {low} or more, not {value!r}")
    rate = given.get("drop_path_rate", 0.0)
    if not isinstance(rate, Real) or not 0 <= float(rate) < 1:
        raise ValueError(f"drop_path_rate of {name} is a number from 0 to below 1, not {rate!r}")


def create_variant(
    model_cls: type[nn.Module], cfg: Any, name: str, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Build a variant for timm: keywords that are fields of the config override it, the rest go to the model.

    ``dynamic_img_size``, which tools pass to whatever has "vit" in its name, is taken by every family; those that take
    any size as they are need it not.

    Raises:
        TypeError: If a keyword is neither, with the nearest name.
        ValueError: If a number is out of range.
    """
    fields = {field.name for field in dataclasses.fields(cfg)}
    options = fields | {"dynamic_img_size"} | set(inspect.signature(model_cls.__init__).parameters) - {"self", "cfg"}

    def build(**model_kwargs: Any) -> nn.Module:
        _check_options(name, options, model_kwargs)
        _check_values(name, model_kwargs)
        overrides = {key: model_kwargs.pop(key) for key in fields & model_kwargs.keys()}
        model_kwargs.pop("dynamic_img_size", None)
        return model_cls(dataclasses.replace(cfg, **overrides), **model_kwargs)

    # timm's default feature wrapper would hand out (B, H, W, C) maps, which an FPN misreads.
    out_indices = getattr(model_cls, "default_out_indices", None) or tuple(range(len(cfg.depths)))
    feature_cfg = {"out_indices": out_indices, "feature_cls": Features}
    if pretrained:
        source = (kwargs.get(key) for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"))
        kwargs["pretrained_cfg_overlay"] = pretrained_overlay(model_cls, name, *source)
    wanted = kwargs.get("out_indices", out_indices) if kwargs.get("features_only") else None
    filter_fn = functools.partial(fit_checkpoint, out_indices=wanted)
    model = build_model_with_cfg(
        build, name, pretrained, pretrained_filter_fn=filter_fn, feature_cfg=feature_cfg, **kwargs
    )
    model.pretrained_cfg.pop("state_dict", None)  # a file's weights, which the model has now
    return model


def _signature(model_cls: type[nn.Module], cfg: Any) -> inspect.Signature:
    """Of an entry point: what help and notebooks show, with this variant's values."""
    kind = inspect.Parameter.KEYWORD_ONLY
    pretrained = inspect.Parameter(
        "pretrained", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=bool
    )
    taken = inspect.signature(model_cls).parameters.items()
    options = [p.replace(kind=kind) for name, p in taken if name not in ("cfg", "device", "dtype")]
    fields = [
        inspect.Parameter(field.name, kind, default=getattr(cfg, field.name), annotation=field.type)
        for field in dataclasses.fields(cfg)
    ]
    rest = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    return inspect.Signature([pretrained, *options, *fields, rest], return_annotation=model_cls)


def register_variants(model_cls: type[_Model], variants: Mapping[str, Any]) -> tuple[EntryPoint[_Model], ...]:
    """Register every row of a family's table with timm.

    The module must have defined ``default_cfgs`` before.

    Returns:
        Entry points in the order of the table, for the family's module to name.

    Raises:
        ValueError: If timm already has a model of that name.
    """

    def entry_point(name: str, cfg: Any) -> EntryPoint[_Model]:
        def entry(pretrained: bool = False, **options: Any) -> Any:
            return create_variant(model_cls, cfg, name, pretrained, **options)

        entry.__name__ = entry.__qualname__ = name
        entry.__module__ = model_cls.__module__
        entry.__doc__ = f"{model_cls.__name__} with {cfg}."
        entry.__signature__ = _signature(model_cls, cfg)  # type: ignore[attr-defined]
        return register_model(entry)

    for name in variants:
        if timm.is_model(name) and name not in _variants:
            raise ValueError(f"timm already has a model called {name!r}: pick another name")
        _variants[name] = model_cls
    return tuple(entry_point(name, cfg) for name, cfg in variants.items())


def list_models(
    filter: str | Iterable[str] = "",
    module: str | Iterable[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = "",
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
    task: str | None = None,
) -> list[str]:
    """``timm.list_models`` of the package's models alone, in natural order.

    Args:
        filter: Wildcards, one or several.
        module: Families, as ``van``.
        pretrained: Those with published weights, by their tags (``van_b0.in1k``).
        exclude_filters: Wildcards of names to leave out.
        name_matches_cfg: As timm takes it.
        include_tags: Whether names have tags; None if ``pretrained``.
        task: "classification" for what maps images to logits, "generation" for what denoises; None for all.

    Raises:
        ValueError: If there is no such task.
    """
    tasks = {model_cls.task for model_cls in _variants.values()}
    if task is not None and task not in tasks:
        raise ValueError(f"no model has the task {task!r}; there are {', '.join(sorted(tasks))}")
    names = timm.list_models(filter, module, pretrained, exclude_filters, name_matches_cfg, include_tags)
    ours = [(name, _variants.get(get_arch_name(name))) for name in names]
    return [name for name, model_cls in ours if model_cls is not None and task in (None, model_cls.task)]


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    checkpoint_path: Any = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """``timm.create_model`` that knows what to suggest for a misspelt name. Any model of timm's is found too.

    A model of timm's whose name begins one of the package's, as ``davit_tiny``, is built with a warning.

    Args:
        model_name: Name, with or without tag: ``van_b0``, ``van_b0.in1k``, ``hf-hub:OWNER/NAME``.
        pretrained: Load published weights.
        pretrained_cfg, pretrained_cfg_overlay, checkpoint_path, cache_dir: As timm takes them.
        kwargs: Fields of the family's config, parameters of its model, ``features_only``, ``out_indices``, ...

    Raises:
        ValueError: If neither the package nor timm has the model, with the nearest names.
        TypeError: If the model has no such option.
    """
    architecture = model_name.split(".")[0]
    if ":" not in model_name and architecture not in _variants:
        if not timm.is_model(architecture):
            near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
            near = [name if name in _variants else f"{name} (timm's)" for name in near]
            hint = f"did you mean {' or '.join(near)}?" if near else f"ours are {', '.join(list_models())}"
            raise ValueError(f"no model is called {architecture!r}; {hint}")
        if ours := [name for name in _variants if name.startswith(f"{architecture}_")]:
            _logger.warning("%s is timm's model; this package's is %s", architecture, " or ".join(ours))
    if architecture in _variants and (tag := model_name.partition(".")[2]):
        tags = [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", include_tags=True)]
        if tag not in tags:
            known = f"there are {', '.join(tags)}" if tags else "it has none, that is no published weights"
            raise ValueError(f"no weights of {architecture} are called {tag!r}; {known}")
    return timm.create_model(
        model_name, pretrained, pretrained_cfg, pretrained_cfg_overlay, checkpoint_path, cache_dir, **kwargs
    )
