"""From the layout of any published checkpoint to the model's own, and back."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from backbones.weights.layouts import Layout, expression, to_own, to_published

ENTRIES = ("state_dict", "model", "module", "state_dict_ema", "model_ema", "ema_state_dict")

# What wrappers put before every key: DistributedDataParallel and AveragedModel, Lightning, OpenMMLab.
_WRAPPERS = ("module", "model", "backbone")
# What they put wherever they wrap a module, a block for example; no module is called so.
_ANYWHERE = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What OpenMMLab's models and ``ZooBackbone`` have beside the backbone and a model has, or an adaptor looks for, inside.
_BESIDE = ("head.fc.", "out_norms.")


@runtime_checkable
class Published(Protocol):
    """What this room asks of a model whose checkpoints are published; every family of the package has it.

    Attributes:
        checkpoint_layouts: How published files name the model's entries, by the name of the layout.
        checkpoint_dims: What a layout does not tell on the way back: layout -> {template of published keys: number of
            dimensions there}.
        checkpoint_entries: Where files hold the weights, the preferred entry first.
    """

    checkpoint_layouts: Mapping[str, Layout]
    checkpoint_dims: Mapping[str, Mapping[str, int]]
    checkpoint_entries: tuple[str, ...]

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make entries that are in the model's own names those of this model, where layouts cannot: resize tables of
        positions, reorder channels.
        """


class _Unpublished:
    """Any other model: its own names are all there is."""

    checkpoint_layouts: Mapping[str, Layout] = {}
    checkpoint_dims: Mapping[str, Mapping[str, int]] = {}
    checkpoint_entries: tuple[str, ...] = ENTRIES

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return state_dict


def _published(model: nn.Module) -> Published:
    return model if isinstance(model, Published) else _Unpublished()


# Whether it fits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How entries compare with those of a model.

    Attributes:
        missing: Keys that the model has and the checkpoint lacks.
        unexpected: Keys that the model lacks.
        mismatched: Key -> shapes in the checkpoint and in the model, where they differ.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[list[int], list[int]]]

    @property
    def unfit(self) -> list[str]:
        """Keys of the model that the checkpoint cannot fill."""
        return [*self.missing, *self.mismatched]

    def only(self, wanted: Callable[[str], bool]) -> "Fit":
        """The same of some keys."""
        return Fit(
            [key for key in self.missing if wanted(key)],
            [key for key in self.unexpected if wanted(key)],
            {key: shapes for key, shapes in self.mismatched.items() if wanted(key)},
        )

    def problems(self, most: int | None = None) -> list[str]:
        """Why it does not fit, one line for each kind and each shape; at most so many keys of a kind."""

        def named(keys: list[str]) -> str:
            shown = keys[:most]
            return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(shown) < len(keys) else "")

        lines = []
        if self.missing:
            lines.append(f"missing from the checkpoint: {named(self.missing)}")
        if self.unexpected:
            lines.append(f"unknown to the model: {named(self.unexpected)}")
        lines += [
            f"{key} has shape {found}, the model's {wanted} (other num_classes, in_chans or variant?)"
            for key, (found, wanted) in list(self.mismatched.items())[:most]
        ]
        return lines

    def require(self, source: str, target: str, most: int = 8) -> None:
        """Stop at the first difference.

        Raises:
            ValueError: If something is missing, unexpected or of another shape; ``source`` and ``target`` are named.
        """
        if problems := self.problems(most):
            raise ValueError(f"{source} does not fit {target}: " + "; ".join(problems))


def compare(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Fit:
    """Whether entries are those of a model, ``own``, by names and shapes."""
    return Fit(
        missing=[key for key in own if key not in weights],
        unexpected=[key for key in weights if key not in own],
        mismatched={
            key: (list(weights[key].shape), list(value.shape))
            for key, value in own.items()
            if key in weights and weights[key].shape != value.shape
        },
    )


# Wrappers -------------------------------------------------------------------------------------------------------------


def weights_of(checkpoint: Mapping[str, Any], entries: tuple[str, ...] = ENTRIES) -> dict[str, Tensor]:
    """The tensors inside a checkpoint, under the first of ``entries`` that it has, however deep.

    Their keys are without what ``torch.compile``, FSDP and activation checkpointing put into them.
    """
    for _ in range(8):  # a file may hold itself
        entry = next((e for e in entries if isinstance(checkpoint.get(e), Mapping)), None)
        if entry is None:
            break
        checkpoint = checkpoint[entry]
    tensors = {key: value for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return {_ANYWHERE.sub("", key): value for key, value in tensors.items()}


def wrapper_prefixes(keys: Iterable[str]) -> list[str]:
    """What wrappers may have put before keys, in any order and depth: "", "model.", "model.module.", ..."""
    wrapped = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)+")
    longest = {match[0] for key in keys if (match := wrapped.match(key))}
    return sorted({""} | {prefix[: at + 1] for prefix in longest for at, c in enumerate(prefix) if c == "."}, key=len)


def _inside(weights: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    """Key without the prefix -> key of the checkpoint, of what a wrapper holds."""
    beside = {
        key.removeprefix(outer): key
        for outer in wrapper_prefixes([prefix])[:-1]
        for key in weights
        if key.removeprefix(outer).startswith(_BESIDE)
    }
    return beside | {key.removeprefix(prefix): key for key in weights if key.startswith(prefix)}


# There ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        weights: The renamed entries; also those that the model lacks.
        layout: The layout that fitted, "own" for the model's.
        names: Keys in the checkpoint, without wrappers, of every entry of ``weights``; several where they are joined.
        shapes: Shape in the checkpoint, joined, by the same keys as ``names``.
        dropped: Keys of the checkpoint that the layout drops, or that stand beside what a wrapper holds.
        fit: How ``weights`` compare with the model.
    """

    weights: dict[str, Tensor]
    layout: str
    names: dict[str, tuple[str, ...]]
    shapes: dict[str, list[int]]
    dropped: list[str]
    fit: Fit


def _names(keys: Iterable[str], layout: Layout) -> dict[str, tuple[str, ...]]:
    """Own key -> published keys; an entry of which a part is missing keeps the published names of the others."""
    parts: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for key in keys:
        name, part, count = to_own(key, layout)
        if name is not None:
            parts.setdefault(name, {})[part] = key
            counts[name] = count
    names: dict[str, tuple[str, ...]] = {}
    for name, found in parts.items():
        whole = len(found) == counts[name]
        names |= {name: tuple(found[i] for i in sorted(found))} if whole else {key: (key,) for key in found.values()}
    return names


def convert_checkpoint(checkpoint: Mapping[str, Any], model: nn.Module) -> Conversion:
    """Rename and reshape as :func:`convert_state_dict` does, and say what was done.

    Args:
        checkpoint: Weights, or a file's content that has them somewhere inside.
        model: The model that it is for; it may be on the meta device.
    """
    own = model.state_dict()
    published = _published(model)
    weights = weights_of(checkpoint, published.checkpoint_entries)
    best, layout, inside, names = -1, "own", {}, {}  # of all wrappers and layouts, the one that names most of the model
    for prefix in wrapper_prefixes(weights):
        unwrapped = _inside(weights, prefix)
        for candidate, rows in {"own": (), **published.checkpoint_layouts}.items():
            renamed = _names(unwrapped, rows)
            if (hits := len(own.keys() & renamed.keys())) > best:
                best, layout, inside, names = hits, candidate, unwrapped, renamed

    converted = {
        key: weights[inside[parts[0]]] if len(parts) == 1 else torch.cat([weights[inside[part]] for part in parts])
        for key, parts in names.items()
    }
    shapes = {key: list(value.shape) for key, value in converted.items()}
    for key in own.keys() & converted.keys():
        value, shape = converted[key], own[key].shape
        if value.shape != shape and [n for n in value.shape if n != 1] == [n for n in shape if n != 1]:
            converted[key] = value.reshape(shape)
    converted = published.adapt_checkpoint(converted)
    taken = {inside[part] for parts in names.values() for part in parts}
    dropped = [key for key in weights if key not in taken]
    return Conversion(converted, layout, names, shapes, dropped, compare(converted, own))


def convert_state_dict(state_dict: Mapping[str, Any], model: nn.Module, strict: bool = True) -> dict[str, Tensor]:
    """Rename the keys of a checkpoint to the model's own and reshape tensors that differ by dimensions of size 1.

    Takes a state dict in the model's own layout, or in any of its family's ``checkpoint_layouts``, plain or inside
    what wraps it: entries of a file (``state_dict``, ``model``, ``ema_state_dict``, ...) and prefixes (``module.``,
    ``_orig_mod.``, ``model.``, ``backbone.``) in any order and depth; what stands beside them is left out. The wrapper
    and layout that name most of the model's entries are taken; ``model.adapt_checkpoint(entries)`` then resizes what
    depends on image size.

    Args:
        state_dict: The checkpoint.
        model: The model that it is for.
        strict: Whether every entry of the model must be there, with its shape, and nothing else.

    Returns:
        The renamed entries; without ``strict`` also those that the model lacks.

    Raises:
        ValueError: If ``strict`` and the result does not fit; all missing, unexpected and mismatched keys are named.
    """
    conversion = convert_checkpoint(state_dict, model)
    if strict:
        conversion.fit.require("the checkpoint", type(model).__name__)
    return conversion.weights


# And back -------------------------------------------------------------------------------------------------------------


def restore_state_dict(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    layout: str = "official",
    names: Mapping[str, tuple[str, ...]] | None = None,
    shapes: Mapping[str, list[int]] | None = None,
) -> dict[str, Tensor]:
    """The inverse of :func:`convert_state_dict`: from the model's own layout to a published one.

    Constants that the published code stores and this package does not (STViT's unfolding kernels) are not made up: the
    published code has them after construction, so load with ``strict=False`` there.

    Args:
        state_dict: Entries of the model.
        model: The model they belong to.
        layout: The layout to go to.
        names: Published keys of own keys, as :class:`Conversion` has them, where they are known; the layout has the
            others.
        shapes: Published shape by own key, likewise.

    Raises:
        ValueError: If the family does not have the layout.
    """
    published = _published(model)
    if layout not in published.checkpoint_layouts:
        known = ", ".join(published.checkpoint_layouts) or "none"
        raise ValueError(f"{type(model).__name__} has no layout {layout!r}; it has {known}")
    rows = published.checkpoint_layouts[layout]
    dims = {re.compile(expression(t)): n for t, n in published.checkpoint_dims.get(layout, {}).items()}
    restored = {}
    for key, value in state_dict.items():
        parts = (names or {}).get(key) or to_published(key, rows)
        shape = (shapes or {}).get(key)
        if shape is not None and math.prod(shape) == value.numel():
            value = value.reshape(shape)
        for name, part in zip(parts, value.chunk(len(parts)) if len(parts) > 1 else (value,), strict=True):
            stated = (
                len(shape) if shape else next((n for pattern, n in dims.items() if pattern.search(name)), part.ndim)
            )
            if stated < part.ndim:  # a map of tokens that the published code stores as a sequence
                part = part.flatten(1, 1 + part.ndim - stated)
            restored[name] = part.reshape((*part.shape, *[1] * (stated - part.ndim)))
    return restored
