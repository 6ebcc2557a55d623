"""Generated parts of docs/families/*.md: tables of numbers from the metafiles, facts from docstrings, drawn blocks.

A page has `<!-- numbers: VAN -->` for the tables of a collection, `<!-- facts: van -->` for what the docstring of
`backbones/models/van.py` says of sizes and of the authors' code, and fenced blocks of the language `block`: a line for
each step of a residual block, `+ LayerNorm | attention` where the input is added, its layers one after the other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from backbones.metafiles import Entry, Published
from tools.model_zoo import TASKS
from tools.zoo_data import speeds, weights

ROOT = Path(__file__).resolve().parents[1]
_STATUS = {"direct": "by address", "shipped": "in the package", "by hand": "by hand", "none": "none"}


# Tables ---------------------------------------------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    keep = [i for i, _ in enumerate(columns) if any(row[i] != "–" for row in rows)]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line[i] for i in keep) + " |" for line in lines)


def _count(counted: str, published: Published | None, source: str | None) -> str:
    return counted + (f" ({published.text.partition(' ')[0]}\u00a0*{source}*)" if published else "")


def _row(entry: Entry, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    params = f"{entry.params / 1e6:.{1 if entry.params > 1e6 else 2}f}"
    macs = f"{entry.macs / 1e9:.{2 if entry.macs > 1e8 else 4}f}"
    return [
        f"[`{entry.title}`](../zoo.md?task={entry.task}&open={entry.name})",
        "×".join(str(n) for n in dict.fromkeys(entry.img_size)),
        _count(params, entry.published_params, entry.published_source),
        _count(macs, entry.published_macs, entry.published_source),
        *[entry.accuracy(dataset, metric) or "–" for _, dataset, metric in columns],
        _STATUS[weights(entry)["status"]],
    ]


def numbers(name: str, entries: Sequence[Entry]) -> str:
    """A table and the recipes of each task, for what was published and for the tiny variant, and measured speeds.

    Raises:
        ValueError: If no entry is in a collection of that name.
    """
    own = [entry for entry in entries if entry.collection.name == name]
    if not own:
        raise ValueError(f"<!-- numbers: {name} -->: no metafile has the collection {name!r}")
    parts = []
    for is_tiny in (False, True):
        for task, (_, results) in TASKS.items():
            chosen = [entry for entry in own if entry.task == task and entry.is_tiny == is_tiny]
            if chosen:
                columns = ["model", "input", "params, M", "MACs, G", *(title for title, _, _ in results), "weights"]
                title = f"{name}: {task}" + (" of digits, in minutes" if is_tiny else "")
                parts += [f"### {title}", _table(columns, [_row(entry, results) for entry in chosen])]
                if recipes := [f"`{Path(entry.config).stem}`" for entry in chosen if entry.config]:
                    parts.append(f"Recipes: {', '.join(recipes)}.")
    measured = speeds((ROOT / "docs/speed.md").read_text())
    rows = [
        [f"`{arch}`", speed["machine"], *(_range(speed[key]) for key in ("inference", "training"))]
        for arch in dict.fromkeys(entry.arch for entry in own)
        for speed in measured.get(arch, ())
    ]
    if rows:
        text = "*Measured* here: how many times as fast as timm's `resnet50` ([how](../speed.md#measured-here))."
        parts += [f"### {name}: speed", text, _table(["model", "CPU", "inference", "training step"], rows)]
    return "\n\n".join(parts)


def _range(speed: Sequence[float] | None) -> str:
    return "–" if speed is None else " – ".join(map(str, dict.fromkeys(speed)))


def facts(module: str) -> str:
    """What the docstring of a family's file says of image sizes and of its difference from the authors' code.

    Raises:
        ValueError: If it says nothing of one of them.
    """
    text = ast.get_docstring(ast.parse((ROOT / f"backbones/models/{module}.py").read_text())) or ""
    text = text.replace("``", "`")
    found = []
    if code := re.findall(r"^Reference code: (.*?)\.?$", text, re.MULTILINE):
        found.append(f"**Authors' code:** {'; '.join(code)}.")
    for key, title in (("Sizes", "Image sizes"), ("Differs from the reference", "Differences")):
        match = re.search(rf"^{key}: (.*?)(?=\n\n|\n[A-Z][\w ]+: |\Z)", text, re.MULTILINE | re.DOTALL)
        if not match:
            raise ValueError(f'the docstring of {module}.py lacks "{key}: ..."')
        found.append(f"**{title}:** {' '.join(match[1].split())}")
    return "\n\n".join(found)


# Drawings -------------------------------------------------------------------------------------------------------------

_ROW, _TRUNK, _GAP, _HEIGHT, _FONT = 74, 26, 20, 30, 13


def draw_block(text: str) -> str:
    """A residual block as an SVG in the colours of the page: the input runs down, branches run to the right.

    Args:
        text: a line a step, from top to bottom: `+ a | b` adds what b makes of a to the input, `a | b` replaces it.
    """
    shapes, y, widest = [], 16, 0
    for line in filter(None, map(str.strip, text.splitlines())):
        layers = [layer.strip() for layer in line.lstrip("+ ").split("|")]
        x, middle = _TRUNK + _GAP, y + 22
        shapes.append(f'<path d="M{_TRUNK} {middle}H{x}"/>')
        for i, layer in enumerate(layers):
            width = round(len(layer) * _FONT * 0.56) + 16
            if i:
                shapes.append(f'<path d="M{x - _GAP} {middle}H{x}" marker-end="url(#arrow)"/>')
            shapes.append(f'<rect x="{x}" y="{middle - _HEIGHT / 2:g}" width="{width}" height="{_HEIGHT}" rx="4"/>')
            shapes.append(f'<text x="{x + width / 2:g}" y="{middle + 5}">{escape(layer)}</text>')
            x += width + _GAP
        widest, end, sign = max(widest, x), middle + 36, line.startswith("+")
        edge = x - _GAP
        shapes.append(f'<path d="M{edge} {middle}h10V{end}H{_TRUNK + 10}" marker-end="url(#arrow)"/>')
        if sign:
            shapes.append(f'<path d="M{_TRUNK} {y - 16}V{end - 9}"/><circle cx="{_TRUNK}" cy="{end}" r="9"/>')
            shapes.append(f'<path d="M{_TRUNK - 5} {end}h10M{_TRUNK} {end - 5}v10"/>')
        else:
            shapes.append(f'<path d="M{_TRUNK} {y - 16}V{middle}M{_TRUNK + 10} {end}H{_TRUNK}v9"/>')
        y += _ROW
    shapes.append(f'<path d="M{_TRUNK} {y - 7}V{y + 6}" marker-end="url(#arrow)"/>')
    label = escape(" ".join(text.split()), quote=True)
    arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    arrow += '<path d="M0 0L8 4L0 8Z" stroke="none" fill="currentColor"/></marker>'
    size = f'viewBox="0 0 {widest + 12} {y + 14}" width="{widest + 12}" style="min-width: min(34rem, {widest + 12}px)"'
    drawing = f'<svg {size} role="img" aria-label="{label}"><defs>{arrow}</defs>{"".join(shapes)}</svg>'
    return f'<div class="block">{drawing}</div>'


def page(text: str, entries: Sequence[Entry]) -> str:
    """A family's page with its generated parts."""
    parts: dict[str, Any] = {"numbers": lambda name: numbers(name, entries), "facts": facts}
    text = re.sub(r"<!-- (numbers|facts): (\S+) -->", lambda match: parts[match[1]](match[2]), text)
    return re.sub(r"^```block\n(.*?)^```$", lambda match: draw_block(match[1]), text, flags=re.MULTILINE | re.DOTALL)
