"""How published files name what a model has: rows of two templates, read in both directions.

A layout is a tuple of rows ``(published, own)``; a row that is more special stands before one that is less::

    ("pos_embed", "stem.pos_embed"),                   # the whole key
    ("patch_embed{i}.", "stages.{i-1}.downsample."),   # how a key begins
    (".layer_scale_{i}", ".ls{i}.gamma"),              # how it ends
    (".dwconv.dwconv.", ".dwconv."),                   # anywhere inside
    ((".query.", ".key.", ".value."), ".qkv."),        # three entries, joined along the first dimension
    (".fold.weights", None),                           # an entry that the model does not have

A template names whole parts of a key, which dots separate. Without a dot in front it is the beginning of the key,
without a dot behind the end. ``{i}`` is a whole number, ``{i+1}`` and ``{i-1}`` are its neighbours. A key is read from
left to right; at each place the first row that fits is taken, and what it renamed is not read again. So the way back
is the same with the sides exchanged.
"""

import functools
import re

Row = tuple[str | tuple[str, ...], str | None]
Layout = tuple[Row, ...]

_FIELD = re.compile(r"\{(\w)([+-]\d+)?\}")


def expression(template: str, row: int = 0) -> str:
    """The regular expression of a template; its numbers are groups named after their letter and ``row``."""
    text = re.escape(template.removeprefix("."))
    text = re.sub(r"\\\{(\w)[^}]*\\\}", rf"(?P<\g<1>{row}>\\d+)", text)
    return ("(?<=\\.)" if template.startswith(".") else "^") + text + ("" if template.endswith(".") else "$")


@functools.cache
def _compiled(templates: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<row{n}>{expression(template, n)})" for n, template in enumerate(templates)))


def _rename(key: str, templates: tuple[str, ...], results: tuple[str | None, ...]) -> tuple[str | None, list[int]]:
    """Replace templates by results; None if a result is. Also which of them were found."""
    found: list[int] = []

    def replace(match: re.Match[str]) -> str:
        row = int(match.lastgroup[3:])  # type: ignore[index]  # the outermost group, which is a row, closes last
        numbers = {name: int(match[f"{name}{row}"]) - int(step or 0) for name, step in _FIELD.findall(templates[row])}
        result = results[row] or ""
        moved = {field[0]: numbers[field[1]] + int(field[2] or 0) for field in _FIELD.finditer(result)}
        if any(number < 0 for number in (*numbers.values(), *moved.values())):
            return match[0]
        found.append(row)
        return _FIELD.sub(lambda field: str(moved[field[0]]), result.removeprefix("."))

    renamed = _compiled(templates).sub(replace, key) if templates else key
    return (None if any(results[row] is None for row in found) else renamed), found


@functools.cache
def _sides(layout: Layout) -> tuple[tuple[str, ...], tuple[str | None, ...], tuple[tuple[int, int], ...]]:
    """Published templates, their own counterparts, and which part of how many each is."""
    rows = [((names,) if isinstance(names, str) else names, own) for names, own in layout]
    flat = [(name, own, (i, len(names))) for names, own in rows for i, name in enumerate(names)]
    published, own, parts = zip(*flat) if flat else ((), (), ())
    return published, own, parts


def to_own(key: str, layout: Layout) -> tuple[str | None, int, int]:
    """The model's key for a published one, None if it is dropped; and which part of how many of that entry it is."""
    published, own, parts = _sides(layout)
    renamed, found = _rename(key, published, own)
    part, count = max((parts[row] for row in found), key=lambda part: part[1], default=(0, 1))
    return renamed, part, count


def to_published(key: str, layout: Layout) -> tuple[str, ...]:
    """The published keys of a model's entry: one, or as many as the entry has parts.

    Raises:
        ValueError: If the layout has no such entry.
    """
    rows = [((names,) if isinstance(names, str) else names, own) for names, own in layout if own is not None]
    own = tuple(own for _, own in rows)
    _, found = _rename(key, own, own)
    count = max((len(rows[row][0]) for row in found), default=1)
    parts = [tuple(names[i % len(names)] for names, _ in rows) for i in range(count)]
    renamed = tuple(_rename(key, own, part)[0] or "" for part in parts)
    if any(to_own(name, layout) != (key, i, count) for i, name in enumerate(renamed)):
        raise ValueError(f"no key of the layout becomes {key!r}")
    return renamed
