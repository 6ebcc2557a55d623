"""The page of `backbones look`, opened as a file: a click or an arrow key shows what that pixel attends to."""

import io
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from backbones.cli import look
from backbones.evaluation.attention import PixelAttention, attention_maps, record
from backbones.evaluation.drawing import HEAT
from backbones.evaluation.encoder import load_encoder
from tests.site.conftest import DESKTOP, PHONE, Page

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]  # one build, one browser
SIZE = (96, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two grey images and what LITv2 makes of them."""
    place = tmp_path_factory.mktemp("look")
    for name, grey in (("dark", 40), ("light", 200)):
        pixels = np.random.default_rng(grey).integers(grey - 40, grey + 40, (*SIZE, 1), np.uint8)
        Image.fromarray(pixels.repeat(3, 2)).save(place / f"{name}.png")
    words = ["test_litv2=random", "--image", str(place / "dark.png"), str(place / "light.png"), "--img-size", "96x128"]
    assert look.main([*words, "--only", "click", "features", "--out", str(place / "out")]) == 0
    return place


def load(page: Page, folder: Path, view: str = "", size: tuple[int, int] = DESKTOP) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    page.get("about:blank")
    page.get((folder / "out/index.html").as_uri() + view)
    page.find_element(By.CSS_SELECTOR, "#click[aria-busy=false]")


@pytest.fixture(autouse=True)
def from_the_folder_alone(page: Page, folder: Path):
    """Nothing is asked for but files of the folder."""
    yield
    wanted = page.requests()
    assert wanted and all(url.startswith(folder.as_uri()) for url in wanted if url != "about:blank")
    page.get("about:blank")
    page.requests()


def maps(folder: Path, name: str) -> list[PixelAttention]:
    encoder = load_encoder("test_litv2=random", SIZE)
    with torch.no_grad(), record(encoder.model) as visits:
        encoder.run(encoder.read([str(folder / f"{name}.png")]))
    return attention_maps(visits, SIZE)


def layers(page: Page) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#click-layers figure")


def wait_for(page: Page, image: int, head: int) -> None:
    """Until every layer shows that image and head."""
    script = "return [...document.querySelectorAll('#click-layers figure')].map((f) => f.dataset.drawn ?? '')"
    WebDriverWait(page, 10).until(
        lambda page: all(text.startswith(f"{image} {head} ") for text in page.execute_script(script))
    )


def state(page: Page) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlparse(page.current_url).fragment).items()}


def is_shown(figure: WebElement, attention: PixelAttention, x: float, y: float, head: int) -> None:
    """The colours on the screen are those of the pixel's attention, where the cross does not cover them."""
    picture = Image.open(io.BytesIO(figure.find_element(By.TAG_NAME, "canvas").screenshot_as_png)).convert("RGB")
    seen = np.asarray(picture).astype(float)
    H, W = attention.size
    row, column = int(y * H), int(x * W)  # maps are small here: every pixel has been drawn
    weights = attention.of(row * W + column)
    weights = weights.mean(0) if head == 0 else weights[head - 1]
    colours = colormaps[HEAT]((weights / weights.max()).numpy())[..., :3] * 255
    for i in range(H):
        for j in range(W):
            if (i, j) != (row, column):
                y0, y1, x0, x1 = (round(v) for v in (i * seen.shape[0] / H, (i + 1) * seen.shape[0] / H,
                                                     j * seen.shape[1] / W, (j + 1) * seen.shape[1] / W))  # fmt: skip
                inside = seen[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
                grey = (inside.mean((0, 1)) - 0.7 * colours[i, j]) / 0.3  # of the image below
                assert abs(grey.max() - grey.min()) < 14, (i, j)
    share = f"highest weight {100 * float(weights.max()):.2f}".rstrip("0").rstrip(".")
    assert share in figure.find_element(By.TAG_NAME, "small").text


def click(page: Page, canvas: WebElement, x: float, y: float) -> None:
    page.execute_script("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    box = canvas.rect
    offset = round((x - 0.5) * box["width"]), round((y - 0.5) * box["height"])
    ActionChains(page).move_to_element_with_offset(canvas, *offset).click().perform()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_click_shows_what_the_pixel_attends_to(size: tuple[int, int], page: Page, folder: Path) -> None:
    expected = maps(folder, "dark")
    load(page, folder, size=size)
    assert len(layers(page)) == len(expected) > 2
    click(page, page.find_element(By.ID, "click-canvas"), 0.8, 0.3)
    WebDriverWait(page, 10).until(lambda page: abs(float(state(page)["x"]) - 0.8) < 0.02)
    wait_for(page, 0, 0)
    x, y = float(state(page)["x"]), float(state(page)["y"])
    assert y == pytest.approx(0.3, abs=0.02)
    for figure, attention in zip(layers(page), expected):
        if size == DESKTOP:  # a picture of an emulated phone's screen is scaled
            is_shown(figure, attention, x, y, 0)
        H, W = attention.size
        assert figure.get_attribute("data-drawn") == f"0 0 {int(y * H)} {int(x * W)}"
    assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
    page.keep(f"look-click-{'phone' if size == PHONE else 'desktop'}")
    # a layer's picture can be clicked as well
    click(page, layers(page)[0].find_element(By.TAG_NAME, "canvas"), 0.2, 0.7)
    WebDriverWait(page, 10).until(lambda page: abs(float(state(page)["x"]) - 0.2) < 0.02)


def test_by_keyboard_with_heads_and_images(page: Page, folder: Path) -> None:
    expected = maps(folder, "light")
    load(page, folder)
    Select(page.find_element(By.NAME, "image")).select_by_visible_text("light.png")
    Select(page.find_element(By.NAME, "head")).select_by_value("1")
    wait_for(page, 1, 1)
    canvas = page.find_element(By.ID, "click-canvas")
    for _ in range(30):  # from the last field on
        if page.switch_to.active_element == canvas:
            break
        page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.switch_to.active_element == canvas
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_DOWN).key_up(Keys.SHIFT).perform()
    assert (state(page)["x"], state(page)["y"]) == ("0.5400", "0.5800")
    assert page.find_element(By.CSS_SELECTOR, "#click output").text == "x 0.54, y 0.58"
    wait_for(page, 1, 1)
    shown = 0
    for figure, attention in zip(layers(page), expected):
        if attention.heads[1] - attention.heads[0] > 1:
            is_shown(figure, attention, 0.54, 0.58, 1)
            shown += 1
    assert shown
    canvas.send_keys(*[Keys.ARROW_LEFT] * 60)  # no further than the border
    assert state(page)["x"] == "0.0000"


def test_a_shared_address_shows_the_same(page: Page, folder: Path) -> None:
    load(page, folder, "#image=1&head=1&x=0.9&y=0.1")
    wait_for(page, 1, 1)
    assert Select(page.find_element(By.NAME, "image")).first_selected_option.text == "light.png"
    assert page.find_element(By.CSS_SELECTOR, "#click output").text == "x 0.90, y 0.10"
    load(page, folder, "#image=9&head=99&x=7&y=no")
    assert state(page) == {"image": "0", "head": "0", "x": "0.9999", "y": "0.5000"}


def test_in_the_dark(page: Page, folder: Path) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    load(page, folder, size=PHONE)
    paper, ink = page.execute_script(
        "const style = getComputedStyle(document.body); return [getComputedStyle(document.documentElement)"
        ".getPropertyValue('color-scheme'), style.color]"
    )
    page.keep("look-click-dark")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert paper == "light dark" and ink == "rgb(255, 255, 255)"
