"""Pictures of docs/look.md and of the families' pages: all made by the tool, marked, small, and shown."""

import re

import pytest
from PIL import Image

from backbones.cli.look import PAGE
from tools import gallery
from tools.layers_page import FAMILIES

DOCS = gallery.FOLDER.parent
NAMES = [name for *_, kept in gallery.PICTURES for name in kept.values()]
MARKS = {"random": "**Random weights**", "digits": "**Trained on digits**"}
SHOWN = re.compile(r"!\[[^\]]+\]\((?:\.\./)?gallery/([\w-]+)\.webp\)")


def test_the_folder_holds_what_the_tool_makes() -> None:
    assert {path.stem for path in gallery.FOLDER.glob("*.*")} == set(NAMES) and len(set(NAMES)) == len(NAMES)
    for path in gallery.FOLDER.rglob("*.*"):
        assert path.stat().st_size <= 150_000, path
    for name in NAMES:
        with Image.open(gallery.FOLDER / f"{name}.webp") as picture:
            assert min(picture.size) > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_shows_its_own_with_a_mark(family: str) -> None:
    text = (DOCS / f"families/{family}.md").read_text()
    section = text.partition("## Inside\n")[2].partition("\n## ")[0]
    names = SHOWN.findall(section)
    assert names and all(name.startswith(f"{family}-") for name in names)
    kinds = {name.split("-")[1] for name in names}
    assert {kind for kind, mark in MARKS.items() if mark in section} == kinds
    assert "`backbones look " in section


def test_every_picture_of_the_guide_is_marked() -> None:
    text = (DOCS / "look.md").read_text()
    rows = [line for line in text.splitlines() if SHOWN.search(line)]
    for row in rows:
        assert all(row.startswith(f"| {MARKS[name.split('-')[1]]}") for name in SHOWN.findall(row)), row
    elsewhere = "".join(path.read_text() for path in (DOCS / "families").glob("*.md"))
    assert {*SHOWN.findall(text), *SHOWN.findall(elsewhere)} == set(NAMES)


def test_the_clickable_page_is_of_today() -> None:
    """``python tools/gallery.py stvit`` renews it."""
    page = (gallery.FOLDER / "click/index.html").read_text()
    assert "<strong>Random weights</strong>" in page
    assert page.partition("<script>\n")[2] == PAGE.read_text().partition("<script>\n")[2]


def test_an_unknown_family_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        gallery.main(["vam"])
    assert "no pictures of vam; there are attnet, davit" in capsys.readouterr().err
