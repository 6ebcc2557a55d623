"""Every page of the site opens in a browser: nothing is missing, from elsewhere, or moves sideways."""

import re
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.site.conftest import DESKTOP, PHONE, Page

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]
ROOT = Path(__file__).parents[2]
PAGES = re.findall(r"([\w/]+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
KEPT = ("index", "examples", "families/davit", "reference/layers")  # as pictures


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, page: Page) -> None:
    path = re.sub(r"(^|/)index$", r"\1", name)
    for size in (PHONE, DESKTOP):
        page.go(f"{path}/" if path and not path.endswith("/") else path, size)
        missing = "return [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"
        assert page.execute_script(missing) == []
        assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
        if name in KEPT:
            page.keep(f"{name.replace('/', '-')}-{'phone' if size == PHONE else 'desktop'}")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_clickable_page(size: tuple[int, int], page: Page) -> None:
    """What `backbones look` wrote, inside the site; tests/site/test_look_page.py clicks."""
    page.go("gallery/click/index.html#x=0.3&y=0.4", size)
    page.find_element(By.CSS_SELECTOR, "#click[aria-busy=false]")
    assert page.find_elements(By.CSS_SELECTOR, "#click-layers figure[data-drawn]")
    assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
    page.keep(f"click-{'phone' if size == PHONE else 'desktop'}")
