"""Tables that depend on the size of the input alone."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def is_traced() -> bool:
    """Whether a program is made rather than a result: compiled, exported, traced, or run on fake tensors."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def kept_by_size(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function made for the 16 sets of arguments that it last saw; ``cache_clear`` and ``cache_info`` too.

    What is made in inference mode is then fit for training, too. While a program is made (``is_traced``) nothing is
    kept: what is made there is part of the program, not a tensor.
    """

    @functools.lru_cache(maxsize=16)
    def kept(*args: Any) -> Any:
        with torch.inference_mode(False):
            return make(*args)

    @functools.wraps(make)
    def call(*args: Any) -> Any:
        return make(*args) if is_traced() else kept(*args)

    call.cache_clear, call.cache_info = kept.cache_clear, kept.cache_info  # type: ignore[attr-defined]
    return call
