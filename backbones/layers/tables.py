"""Tables that depend on the size of the input alone."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

_constant = False
_of_trace: ContextVar[dict[Any, Any] | None] = ContextVar("tables of this thread's trace", default=None)


@contextmanager
def constant_tables() -> Iterator[None]:
    """Let a trace by ``torch.jit`` take tables as constants, made once a size: for traces that serve one size alone."""
    global _constant
    before, _constant = _constant, True
    try:
        yield
    finally:
        _constant = before


@contextmanager
def one_table_a_size(model: nn.Module) -> Iterator[None]:
    """Let a trace of a model hold each table once, for all blocks that ask for the same, rather than once a block."""
    tables: dict[Any, Any] = {}
    token = _of_trace.set(tables)
    forget = model.register_forward_pre_hook(lambda *_: tables.clear())  # an exporter traces a model several times
    try:
        yield
    finally:
        forget.remove()
        _of_trace.reset(token)


def is_traced() -> bool:
    """Whether a program is made rather than a result: compiled, exported, traced, or run on fake tensors."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


@contextmanager
def _untraced() -> Iterator[None]:
    """Outside the trace that ``torch.jit`` is making, if any."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def kept_by_size(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function made for the 16 sets of arguments that it last saw; ``cache_clear`` and ``cache_info`` too.

    What is made in inference mode is then fit for training, too. While a program is made (``is_traced``) nothing is
    kept: what is made there is part of the program, not a tensor.
    """

    @functools.lru_cache(maxsize=16)
    def kept(*args: Any) -> Any:
        with torch.inference_mode(False), _untraced():
            return make(*args)

    @functools.wraps(make)
    def call(*args: Any) -> Any:
        if _constant:  # sizes are tensors while tracing
            return kept(*(int(a) if isinstance(a, torch.Tensor) else a for a in args))
        if not is_traced():
            return kept(*args)
        tables = None if torch.compiler.is_dynamo_compiling() else _of_trace.get()
        if tables is None:
            return make(*args)
        key = make, *map(str, args)  # a size is an expression, which has no hash
        if key not in tables:
            tables[key] = make(*args)
        return tables[key]

    call.cache_clear, call.cache_info = kept.cache_clear, kept.cache_info  # type: ignore[attr-defined]
    return call
