"""Which models the package has."""

import difflib
import fnmatch
from typing import Any

import timm
from torch import nn

from backbones.models._pyramid import _variants


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Names of the package's models that match a wildcard ``pattern``, sorted.

    Args:
        pattern: Of the names.
        task: "classification" for what maps images to logits, "generation" for what denoises; None for all.

    Raises:
        ValueError: If there is no such task.
    """
    tasks = {name: model_cls.task for name, model_cls in _variants.items()}
    if task is not None and task not in tasks.values():
        raise ValueError(f"no model has the task {task!r}; there are {', '.join(sorted(set(tasks.values())))}")
    return sorted(name for name in fnmatch.filter(tasks, pattern) if task in (None, tasks[name]))


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` that knows what to suggest for a misspelt name. Any model of timm's is found too.

    Raises:
        ValueError: If neither the package nor timm has the model, with the nearest names.
    """
    architecture = name.split(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, list_models() + timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"ours are {', '.join(list_models())}"
        raise ValueError(f"no model is called {architecture!r}; {hint}")
    return timm.create_model(name, **kwargs)
