"""From the layout of any published checkpoint to the model's own."""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Prefixes that wrappers put before every key: DistributedDataParallel, torch.compile, and OpenMMLab's model parts.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_ARITHMETIC = re.compile(r"\{(\d+)([+-])(\d+)\}")


def unwrap(checkpoint: Mapping[str, Any], entries: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights inside a checkpoint: the first of ``entries`` that it has, without wrappers' prefixes."""
    for _ in range(8):  # a file may hold itself
        entry = next((e for e in entries if isinstance(checkpoint.get(e), Mapping)), None)
        if entry is None:
            break
        checkpoint = checkpoint[entry]
    weights = {key: value for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if any(key.removeprefix("module.").startswith("backbone.") for key in weights):  # an OpenMMLab model: take our part
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
        parts = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
        head = {key: value for key, value in weights.items() if key.startswith("head.fc.")}
        weights = parts | head
    for prefix in _WRAPPERS:
        if weights and all(key.startswith((prefix, "head.fc.", "out_norms.")) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _rename(key: str, rules: tuple[tuple[str, str | None], ...]) -> str | None:
    """Apply every rule in turn; ``{i+1}`` and ``{i-1}`` in the result are computed. None if a rule drops the key."""
    for pattern, replacement in rules:
        if replacement is None:
            if re.search(pattern, key):
                return None
        else:
            key = re.sub(pattern, replacement, key)
    return _ARITHMETIC.sub(lambda m: str(int(m[1]) + int(m[2] + m[3])), key)


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        weights: The renamed entries; also those that the model lacks.
        layout: The layout that fitted, "own" for the model's.
        names: Key in the checkpoint, without wrappers, of every entry of ``weights``.
        shapes: Shape in the checkpoint, by the same keys as ``names``.
        dropped: Keys of the checkpoint that a rule of the layout drops.
        missing: Keys that the model has and the checkpoint lacks.
        unexpected: Keys of ``weights`` that the model lacks.
        misshapen: Key -> shapes in the checkpoint and in the model, where they differ.
    """

    weights: dict[str, Tensor]
    layout: str
    names: dict[str, str]
    shapes: dict[str, list[int]]
    dropped: list[str]
    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, tuple[list[int], list[int]]]

    def problems(self) -> list[str]:
        """Why the result does not fit the model; one line for each kind."""
        lines = []
        if self.missing:
            lines.append(f"missing from the checkpoint: {', '.join(self.missing)}")
        if self.unexpected:
            lines.append(f"unknown to the model: {', '.join(self.unexpected)}")
        lines += [
            f"{key} has shape {found}, the model's {wanted} (other num_classes, in_chans or variant?)"
            for key, (found, wanted) in self.misshapen.items()
        ]
        return lines


def convert_checkpoint(state_dict: Mapping[str, Any], model: nn.Module) -> Conversion:
    """Rename and reshape as :func:`convert_state_dict` does, and say what was done.

    Args:
        state_dict: The checkpoint.
        model: The model that it is for; it may be on the meta device.
    """
    own = model.state_dict()
    weights = unwrap(state_dict, getattr(model, "checkpoint_entries", ("state_dict", "model")))
    candidates: dict[str, dict[str, str | None]] = {}  # layout -> key in the checkpoint -> own key
    for layout, rules in {"own": (), **getattr(model, "checkpoint_layouts", {})}.items():
        candidates[layout] = {key: _rename(key, rules) for key in weights}
    layout = max(candidates, key=lambda name: len(own.keys() & set(candidates[name].values())))
    names = {renamed: key for key, renamed in candidates[layout].items() if renamed is not None}
    converted = {renamed: weights[key] for renamed, key in names.items()}

    shapes = {key: list(value.shape) for key, value in converted.items()}
    for key in own.keys() & converted.keys():
        value, shape = converted[key], own[key].shape
        if value.shape != shape and [n for n in value.shape if n != 1] == [n for n in shape if n != 1]:
            converted[key] = value.reshape(shape)
    if hasattr(model, "adapt_checkpoint"):
        converted = model.adapt_checkpoint(converted)
    return Conversion(
        weights=converted,
        layout=layout,
        names=names,
        shapes=shapes,
        dropped=[key for key, renamed in candidates[layout].items() if renamed is None],
        missing=[key for key in own if key not in converted],
        unexpected=[key for key in converted if key not in own],
        misshapen={
            key: (list(converted[key].shape), list(own[key].shape))
            for key in own
            if key in converted and converted[key].shape != own[key].shape
        },
    )


def convert_state_dict(state_dict: Mapping[str, Any], model: nn.Module, strict: bool = True) -> dict[str, Tensor]:
    """Rename the keys of a checkpoint to the model's own and reshape tensors that differ by dimensions of size 1.

    Takes a state dict in the model's own layout, or in any of its family's ``checkpoint_layouts``, bare or inside the
    usual wrappers (``state_dict``, ``model``, ``module.``, ``backbone.``). The layout that names most of the model's
    entries is taken; ``model.adapt_checkpoint(entries)``, where there is one, then resizes what depends on image size.

    Args:
        state_dict: The checkpoint.
        model: The model that it is for.
        strict: Whether every entry of the model must be there, with its shape, and nothing else.

    Returns:
        The renamed entries; without ``strict`` also those that the model lacks.

    Raises:
        ValueError: If ``strict`` and the result does not fit; all missing, unexpected and misshapen keys are named.
    """
    conversion = convert_checkpoint(state_dict, model)
    if strict and (problems := conversion.problems()):
        raise ValueError(f"the checkpoint does not fit {type(model).__name__}: " + "; ".join(problems))
    return conversion.weights


# The way back --------------------------------------------------------------------------------------------------------

_PIECE = re.compile(r"(?P<anchor>[\^$])|\\(?P<escaped>[.\-])|\((?P<group>[^()]*)\)|(?P<literal>[\w-])")
_REFERENCE = re.compile(r"\{\\(?P<moved>\d)(?P<step>[+-]\d)\}|\\(?P<same>\d)")


@functools.cache
def _invert(pattern: str, replacement: str) -> tuple[str, str]:
    """The rule that undoes a rule made of literals, anchors and groups."""
    groups: list[str] = []
    template, position = "", 0
    while position < len(pattern):
        piece = _PIECE.match(pattern, position)
        if piece is None:
            raise ValueError(f"the rule {pattern!r} cannot be inverted at {pattern[position:]!r}")
        if piece["group"] is not None:
            groups.append(piece["group"])
            template += f"\\{len(groups)}"
        elif piece["anchor"] is None:
            template += piece["escaped"] or piece["literal"]
        position = piece.end()

    inverse, position, order = "", 0, []
    for reference in _REFERENCE.finditer(replacement):
        number = int(reference["moved"] or reference["same"])
        order.append((number, -int(reference["step"] or 0)))
        inverse += re.escape(replacement[position : reference.start()]) + f"({groups[number - 1]})"
        position = reference.end()
    inverse += re.escape(replacement[position:])
    for place, (number, step) in enumerate(order, 1):
        template = template.replace(f"\\{number}", f"{{\\g<{place}>{step:+d}}}" if step else f"\\g<{place}>")
    if pattern.startswith("^"):
        inverse = "^" + inverse
    if pattern.endswith("$"):
        inverse += "$"
    return inverse, template


def _restore_key(key: str, rules: tuple[tuple[str, str | None], ...]) -> str:
    """The key that ``rules`` turn into ``key``; of several the one whose rules explain most of it."""
    candidates = {key: 0}
    for pattern, replacement in reversed(rules):
        if replacement is not None:
            inverse = _invert(pattern, replacement)
            for candidate, weight in list(candidates.items()):
                if explained := re.search(inverse[0], candidate):
                    restored = _rename(candidate, (inverse,)) or ""
                    candidates[restored] = max(weight + len(explained[0]), candidates.get(restored, 0))
    fitting = {candidate: weight for candidate, weight in candidates.items() if _rename(candidate, rules) == key}
    if not fitting:
        raise ValueError(f"no key of the layout becomes {key!r}")
    return max(fitting, key=lambda candidate: fitting[candidate])


def restore_state_dict(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    layout: str = "official",
    names: Mapping[str, str] | None = None,
    shapes: Mapping[str, list[int]] | None = None,
) -> dict[str, Tensor]:
    """The inverse of :func:`convert_state_dict`: from the model's own layout to a published one.

    Constants that the published code stores and this package does not (STViT's unfolding kernels) are not made up: the
    published code has them after construction, so load with ``strict=False`` there.

    Args:
        state_dict: Entries of the model.
        model: The model they belong to; its family's ``checkpoint_layouts`` name the layouts, its ``checkpoint_dims``
            say which of their entries have another number of dimensions.
        layout: The layout to go to.
        names: Published key of own keys, as :class:`Conversion` has it, where it is known; rules tell the others.
        shapes: Published shape by own key, likewise.

    Raises:
        ValueError: If the family does not have the layout.
    """
    layouts = getattr(model, "checkpoint_layouts", {})
    if layout not in layouts:
        known = ", ".join(layouts) or "none"
        raise ValueError(f"{type(model).__name__} has no layout {layout!r}; it has {known}")
    dims = getattr(model, "checkpoint_dims", {}).get(layout, {})
    restored = {}
    for key, value in state_dict.items():
        name = (names or {}).get(key) or _restore_key(key, layouts[layout])
        shape = (shapes or {}).get(key)
        if shape is not None and math.prod(shape) == value.numel():
            value = value.reshape(shape)
        else:
            told = (ndim for pattern, ndim in dims.items() if re.search(pattern, name))
            ndim = next(told, value.ndim) if shape is None else len(shape)
            if ndim < value.ndim:  # a map of tokens that the published code stores as a sequence
                value = value.flatten(1, 1 + value.ndim - ndim)
            value = value.reshape((*value.shape, *[1] * (ndim - value.ndim)))
        restored[name] = value
    return restored
