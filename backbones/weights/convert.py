"""From the layout of any published checkpoint to the model's own."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

# Prefixes that wrappers put before every key: DistributedDataParallel, torch.compile, and OpenMMLab's model parts.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_ARITHMETIC = re.compile(r"\{(\d+)([+-])(\d+)\}")


def _unwrap(checkpoint: Mapping[str, Any], entries: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights inside a checkpoint: the first of ``entries`` that it has, without wrappers' prefixes."""
    while True:
        entry = next((e for e in entries if isinstance(checkpoint.get(e), Mapping)), None)
        if entry is None:
            break
        checkpoint = checkpoint[entry]
    weights = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    if any(key.removeprefix("module.").startswith("backbone.") for key in weights):  # an OpenMMLab model: keep what is ours
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
    own = model.state_dict()
    weights = _unwrap(state_dict, getattr(model, "checkpoint_entries", ("state_dict", "model")))
    candidates: list[dict[str, Tensor]] = []
    for rules in ((), *getattr(model, "checkpoint_layouts", {}).values()):
        renamed = ((_rename(key, rules), value) for key, value in weights.items())
        candidates.append({key: value for key, value in renamed if key is not None})
    converted = max(candidates, key=lambda candidate: len(own.keys() & candidate.keys()))

    for key in own.keys() & converted.keys():
        value, shape = converted[key], own[key].shape
        if value.shape != shape and [n for n in value.shape if n != 1] == [n for n in shape if n != 1]:
            converted[key] = value.reshape(shape)
    if hasattr(model, "adapt_checkpoint"):
        converted = model.adapt_checkpoint(converted)

    if strict:
        problems = []
        if missing := [key for key in own if key not in converted]:
            problems.append(f"missing from the checkpoint: {', '.join(missing)}")
        if unexpected := [key for key in converted if key not in own]:
            problems.append(f"unknown to the model: {', '.join(unexpected)}")
        problems += [
            f"{key} has shape {list(converted[key].shape)}, the model's {list(own[key].shape)} (other num_classes, "
            "in_chans or variant?)"
            for key in own
            if key in converted and converted[key].shape != own[key].shape
        ]
        if problems:
            raise ValueError(f"the checkpoint does not fit {type(model).__name__}: " + "; ".join(problems))
    return converted
