"""Layers run one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class shortcut:
    """The step ``x + layer(x)``. ``layer`` keeps the shape of its input."""

    layer: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


def sequential(x: Any, *steps: Callable[[Any], Any]) -> Any:
    """``for step in steps: x = step(x)``.

    Args:
        x: What the first step takes.
        steps: Modules of a block, and the views ``to_nchw`` and ``to_nhwc`` between them.
    """
    for step in steps:
        x = step(x)
    return x
