"""Compilers and tracers take every family, except where EXCEPTIONS says why; docs/export.md has the same table.

Programs of ``torch.export`` are those of the format "pt2", in tests/deploy. The compiler's backend is "eager": what
depends on the models is which graph is captured, and for which sizes.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models import create_feature_extractor
from torch import Tensor, nn

from tests.every_module import SHALLOW
from tests.test_models import TINY, images, tiny

OTHER_SIZE = (101, 77)
# A program fixes on which side one window covers a whole map, so it is made at a size where that is as at the other.
FIRST_SIZE = {"test_halonet": (96, 128)}
EXCEPTIONS = {
    ("test_ptdit", "torch.compile"): "a graph for each size, because it reckons with sides as Python's numbers",
    ("test_ptdit", "FX"): "its masks are tables of the size",
}


def compiled(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    for side in (2, 3):
        torch._dynamo.mark_dynamic(x, side)
    return torch.compile(model, fullgraph=True, backend="eager")


def traced_by_fx(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    graph = create_feature_extractor(model, ["head.fc"])
    return lambda x: graph(x)["head.fc"]


KINDS = {"torch.compile": compiled, "FX": traced_by_fx}
CASES = [
    pytest.param(name, kind, marks=pytest.mark.slow if kind == "torch.compile" else (), id=f"{name}-{kind}")
    for name in TINY
    for kind in KINDS
    if (name, kind) not in EXCEPTIONS
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_equals_the_plain_model_at_two_sizes(name: str, kind: str) -> None:
    """Outputs and gradients; at the second size without compiling again."""
    torch._dynamo.reset()
    model = tiny(name, **SHALLOW.get(name, {})).train()
    first = images(*FIRST_SIZE.get(name, (64, 96)))
    with torch._dynamo.config.patch(error_on_recompile=True):
        transformed = KINDS[kind](model, first)
        for x in (first, images(*OTHER_SIZE)):
            results = []
            for call in (model, transformed):
                y = call(x)
                model.zero_grad()
                y.square().sum().backward()
                results.append([y, *(p.grad for p in model.parameters())])
            for expected, found in zip(*results, strict=True):
                torch.testing.assert_close(
                    found, expected, atol=1e-4 * max(1.0, expected.abs().max().item()), rtol=1e-3
                )


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    lines = re.findall(r"^\|.*\|$", page[page.index("| family | model |") :], re.M)
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    kinds = rows[0][2:]
    assert set(kinds) == set(KINDS)
    table = {(row[1], kind): cell for row in rows[2:] for kind, cell in zip(kinds, row[2:], strict=True)}
    assert {name for name, _ in table} == {*TINY, *(name for name, _ in EXCEPTIONS)}
    for case, cell in table.items():
        assert cell == (f"no: {EXCEPTIONS[case]}" if case in EXCEPTIONS else "yes")
