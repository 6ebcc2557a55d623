"""The generated parts of the families' pages: all of the metafiles' families, every number with its source."""

import re

import pytest

from backbones.metafiles import load_metafiles
from tools.family_pages import ROOT, draw_block, facts, numbers, page
from tools.layers_page import FAMILIES

ENTRIES = load_metafiles()
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs/families").glob("*.md") if path.stem != "index"}


def test_every_family_has_a_page() -> None:
    modules = {path.stem for path in (ROOT / "backbones/models").glob("[!_]*.py")}
    assert set(PAGES) == modules == set(FAMILIES)
    numbered = [name for text in PAGES.values() for name in re.findall(r"<!-- numbers: (\S+) -->", text)]
    assert sorted(numbered) == sorted({entry.collection.name for entry in ENTRIES})
    index = (ROOT / "docs/families/index.md").read_text()
    assert set(re.findall(r"\((\w+)\.md\)", index)) == modules


@pytest.mark.parametrize("family", PAGES)
def test_pages_are_filled_in(family: str) -> None:
    text = page(PAGES[family], ENTRIES)
    assert "<!--" not in text and "```block" not in text
    assert "**Image sizes:**" in text and "**Differences:**" in text
    assert text.count("<svg") == 1 and f"pixels/{family}.png" in text
    configs = {entry.config for entry in ENTRIES if entry.config and entry.config.startswith(f"configs/{family}/")}
    assert all(f"`{config.rpartition('/')[2].removesuffix('.py')}`" in text for config in configs)


@pytest.mark.parametrize("collection", sorted({entry.collection.name for entry in ENTRIES}))
def test_numbers_have_sources(collection: str) -> None:
    text = numbers(collection, ENTRIES)
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "model":
            header = cells
        elif line.startswith("| ["):
            for title, cell in zip(header, cells, strict=True):
                if title not in ("model", "input", "weights") and cell != "–":
                    source = r"[\d.]+\s\*(paper|repository|mmpretrain|measured)\*"
                    counted = rf"[\d.]+( \({source}\))?"
                    assert re.fullmatch(counted if title in ("params, M", "MACs, G") else source, cell), cell


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no metafile has the collection 'VAM'"):
        page("<!-- numbers: VAM -->", ENTRIES)
    with pytest.raises(FileNotFoundError, match=r"vam\.py"):
        facts("vam")


def test_a_block_is_drawn() -> None:
    drawn = draw_block("+ LayerNorm | a < b\nLinear\n")
    assert drawn.count("<rect") == 3 and drawn.count("<circle") == 1  # one sum
    assert "a &lt; b" in drawn and 'aria-label="+ LayerNorm | a &lt; b Linear"' in drawn
    heights = [float(y) for y in re.findall(r'<rect x="[\d.]+" y="([\d.]+)"', drawn)]
    assert heights[0] == heights[1] < heights[2]
