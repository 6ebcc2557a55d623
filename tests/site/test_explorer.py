"""The zoo explorer as people use it, in a real browser."""

import re

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from backbones.metafiles import load_metafiles
from tests.site.conftest import DESKTOP, PHONE, Page

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]  # one build, one browser
ENTRIES = load_metafiles()


def load(page: Page, query: str = "", size: tuple[int, int] = DESKTOP) -> None:
    page.go(f"zoo/{query}", size)
    page.find_element(By.CSS_SELECTOR, "#zoo[aria-busy=false]")


def names(page: Page) -> list[str]:
    return page.execute_script("return [...document.querySelectorAll('.zoo-open')].map((b) => b.textContent)")


def cells(page: Page, column: str) -> list[str]:
    script = "return [...document.querySelectorAll(`tr[id] > .zoo-${arguments[0]}`)].map((c) => c.innerText)"
    return page.execute_script(script, column)


def choose(page: Page, name: str, value: str) -> None:
    """Click on a choice of the form, in its menu if it has one."""
    box = page.find_element(By.CSS_SELECTOR, f"input[name={name}][value='{value}']")
    menu = page.execute_script("return arguments[0].closest('details')", box)
    if menu and not menu.get_attribute("open"):
        menu.find_element(By.TAG_NAME, "summary").click()
    page.execute_script("return arguments[0].closest('label')", box).click()


def opened(page: Page) -> str:
    return page.find_element(By.CSS_SELECTOR, "tr.zoo-opened .zoo-open").text


def test_all_entries_of_a_task_are_there(page: Page) -> None:
    load(page)
    assert len(names(page)) == sum(entry.task == "classification" for entry in ENTRIES)
    page.keep("zoo-desktop")
    choose(page, "task", "")
    assert len(names(page)) == len(ENTRIES)
    assert page.find_element(By.ID, "zoo-count").text == f"{len(ENTRIES)} of {len(ENTRIES)} entries"


def test_filters_search_and_reset(page: Page) -> None:
    load(page)
    choose(page, "family", "VAN")
    choose(page, "weights", "direct")
    expected = {e.title for e in ENTRIES if e.collection.name == "VAN" and e.task == "classification" and e.weights}
    assert set(names(page)) == expected
    search = page.find_element(By.NAME, "text")
    search.send_keys("b2")
    assert names(page) == ["van_b2.in1k"]
    search.clear()
    page.find_element(By.CSS_SELECTOR, ".zoo-filters [type=reset]").click()
    choose(page, "task", "detection")
    choose(page, "license", "mit")
    chosen = [e for e in ENTRIES if e.task == "detection" and e.license == "mit"]
    assert len(names(page)) == len(chosen) > 0
    page.find_element(By.XPATH, "//summary[contains(., 'Numbers')]").click()
    page.find_element(By.NAME, "params").send_keys("60")
    page.find_element(By.NAME, "accuracy").send_keys("46")
    assert 0 < len(names(page)) < len(chosen)
    assert all(float(text) <= 60 for text in cells(page, "params"))
    assert all(float(text.split()[0]) >= 46 for text in cells(page, "coco-box-ap"))
    macs = sorted(float(text) for text in cells(page, "macs"))
    page.find_element(By.NAME, "macs").send_keys(f"{macs[-1] - 1:g}")
    assert 0 < len(names(page)) < len(macs)
    assert all(float(text) <= macs[-1] - 1 for text in cells(page, "macs"))


def test_filters_by_keyboard_alone(page: Page) -> None:
    load(page)
    menu = page.find_element(By.XPATH, "//summary[contains(., 'Family')]")
    menu.send_keys(Keys.ENTER)
    page.switch_to.active_element.send_keys(Keys.TAB)
    box = page.switch_to.active_element
    assert box.get_attribute("name") == "family" and box.is_displayed()
    box.send_keys(Keys.SPACE)
    family = box.get_attribute("value")
    assert f"family={family}" in page.current_url
    assert set(names(page)) == {e.title for e in ENTRIES if e.collection.name == family and e.task == "classification"}
    box.send_keys(Keys.ESCAPE)  # closes the menu and goes back to its name
    assert page.switch_to.active_element == menu and not box.is_displayed()
    assert menu.find_element(By.TAG_NAME, "output").text == "1"


def test_an_opened_row_has_everything(page: Page) -> None:
    load(page, "?open=van-b0_8xb128_in1k")
    (entry,) = (e for e in ENTRIES if e.name == "van-b0_8xb128_in1k")
    row = page.find_element(By.CSS_SELECTOR, ".zoo-details")
    titles = [caption.text.removesuffix("Copy").strip() for caption in row.find_elements(By.CSS_SELECTOR, "figcaption")]
    assert [title for title in titles if title] == ["timm", "Feature maps", "OpenMMLab", "Train", "Export"]
    assert "backbones export van_b0.in1k --format onnx" in row.text
    assert "backbones train van-b0_8xb128_in1k" in row.text
    row.find_element(By.TAG_NAME, "summary").click()  # the config
    assert "_base_" in row.find_element(By.CSS_SELECTOR, "details pre").text
    weights = row.find_element(By.XPATH, ".//dt[.='Weights']/following-sibling::dd").text
    assert "van_tiny_754.pth.tar" in weights and "no hash published" in weights and "size: checked" in weights
    assert entry.license in row.text and entry.collection.paper_title in row.text
    numbers = [value.text for value in row.find_elements(By.CSS_SELECTOR, "dl dd")]
    for result in entry.results:
        for value in result["Metrics"].values():
            assert any(text.startswith(f"{value}") and text.endswith(result["Source"]) for text in numbers)
    load(page, "?open=van-test_1xb32-20e_digits-64px")  # in the package: everything is known of its weights
    row = page.find_element(By.CSS_SELECTOR, ".zoo-details")
    weights = row.find_element(By.XPATH, ".//dt[.='Weights']/following-sibling::dd").text
    assert re.search(r"SHA-256 [0-9a-f]{64}", weights) and "784 kB" in weights


def test_sorts_by_keyboard_with_blanks_last(page: Page) -> None:
    load(page)
    for order, direction in (("desc", -1), ("asc", 1)):
        page.find_element(By.CSS_SELECTOR, "th.zoo-imagenet-1k-top-1 [role=button]").send_keys(Keys.ENTER)
        page.find_element(By.CSS_SELECTOR, f"th.zoo-imagenet-1k-top-1.dt-ordering-{order}")
        texts = cells(page, "imagenet-1k-top-1")
        values = [float(text.split()[0]) for text in texts if text != "–"]
        assert values == sorted(values, key=lambda value: direction * value) and len(set(values)) > 10
        assert set(texts[len(values) :]) == {"–"}
    assert "sort=imagenet-1k-top-1.asc" in page.current_url


def test_every_number_but_counts_has_its_source(page: Page) -> None:
    load(page, "?task=&columns=published-params,published-macs,imagenet-1k-top-1,coco-box-ap,ade20k-miou,speed-0")
    marked = 0
    for column in ("published-params", "imagenet-1k-top-1", "coco-box-ap", "ade20k-miou", "speed-0"):
        for text in cells(page, column):
            if text != "–":
                assert text.split()[-1] in ("paper", "repository", "mmpretrain", "measured"), text
                marked += 1
    assert marked > 200


def test_columns_go_and_come(page: Page) -> None:
    load(page)
    assert page.find_elements(By.CSS_SELECTOR, "th.zoo-license")
    choose(page, "columns", "license")
    page.implicitly_wait(0)
    assert not page.find_elements(By.CSS_SELECTOR, "th.zoo-license")
    page.implicitly_wait(10)
    choose(page, "columns", "data")
    assert page.find_element(By.CSS_SELECTOR, "th.zoo-data")
    page.refresh()
    assert page.find_element(By.CSS_SELECTOR, "th.zoo-data")


def points(page: Page) -> list[str]:
    script = "return document.getElementById('zoo-chart').data.flatMap((trace) => trace.ids ?? [])"
    return page.execute_script(script)


def test_a_point_leads_to_its_row_and_a_row_to_its_point(page: Page) -> None:
    load(page, "?family=VAN")
    wanted = "van-b2_8xb128_in1k"
    assert wanted in points(page)
    # where the point is on the screen, as Plotly places it
    script = """
        const chart = document.getElementById("zoo-chart"), { xaxis, yaxis } = chart._fullLayout;
        const trace = chart.data.find((t) => t.ids?.includes(arguments[0])), i = trace.ids.indexOf(arguments[0]);
        chart.scrollIntoView({ block: "center" });
        const box = chart.getBoundingClientRect();
        return [box.x + xaxis._offset + xaxis.d2p(trace.x[i]), box.y + yaxis._offset + yaxis.d2p(trace.y[i])];"""
    x, y = page.execute_script(script, wanted)
    mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **mouse})
    WebDriverWait(page, 10).until(lambda page: f"open={wanted}" in page.current_url)
    assert opened(page) == "van_b2.in1k"
    assert page.switch_to.active_element.text == "van_b2.in1k"
    ring = "const { data } = document.getElementById('zoo-chart'); return [data.at(-1).x[0], data.at(-1).y[0]]"
    assert page.execute_script(ring) == [pytest.approx(26.58, abs=0.01), 82.8]
    page.keep("zoo-row")
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert opened(page) == "van_b3.in1k"
    assert page.execute_script(ring)[1] == 83.9
    page.find_element(By.CSS_SELECTOR, ".zoo-locate").click()
    assert page.find_element(By.ID, "zoo-chart").is_displayed()


def test_the_front_is_what_nothing_beats(page: Page) -> None:
    load(page, "?x=macs")
    data = page.execute_script(
        "return document.getElementById('zoo-chart').data.map(({ name, x, y }) => ({ name, x, y }))"
    )
    line, *families, _ = data
    everything = [point for family in families for point in zip(family["x"], family["y"], strict=True)]
    front = list(zip(line["x"], line["y"], strict=True))
    slow = [p for p in everything if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in everything)]
    assert sorted(front) == sorted(set(slow)) and len(front) > 3
    for axis in ("params", "speed-0"):
        Select(page.find_element(By.NAME, "x")).select_by_value(axis)
        assert points(page)
    page.keep("zoo-speed")


def test_a_snippet_is_copied(page: Page) -> None:
    load(page, "?open=van-b0_8xb128_in1k")
    origin = {"origin": page.current_url.partition("/zoo")[0], "permissions": ["clipboardReadWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", origin)
    page.find_element(By.CSS_SELECTOR, ".zoo-copy").click()
    script = "navigator.clipboard.readText().then(arguments[0])"
    assert 'timm.create_model("van_b0.in1k", pretrained=True)' in page.execute_async_script(script)
    assert page.find_element(By.CSS_SELECTOR, ".zoo-copy").text == "Copied"


def test_a_shared_address_shows_the_same(page: Page) -> None:
    load(page)
    choose(page, "task", "segmentation")
    choose(page, "family", "VAN")
    page.find_element(By.CSS_SELECTOR, "th.zoo-params [role=button]").click()
    page.find_element(By.CSS_SELECTOR, "th.zoo-params.dt-ordering-asc")
    Select(page.find_element(By.NAME, "x")).select_by_value("macs")
    page.find_elements(By.CSS_SELECTOR, ".zoo-open")[1].click()
    shared, seen, row = page.current_url, names(page), opened(page)
    load(page)  # elsewhere in between
    page.get(shared)
    assert opened(page) == row and names(page) == seen and page.current_url == shared
    assert [len(set(cells(page, "family"))), Select(page.find_element(By.NAME, "x")).first_selected_option.text] == [
        1,
        "MACs, G",
    ]


@pytest.mark.parametrize(
    "query", ["?task=nonsense&sort=x.y&x=1&y=2&columns=no&open=nobody&params=abc", "?text=%3Cb%3E"]
)
def test_a_wrong_address_is_no_error(query: str, page: Page) -> None:
    load(page, query)
    assert page.find_element(By.ID, "zoo-count").text.endswith("entries")


def test_on_a_phone_in_the_dark(page: Page) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    load(page, "?open=litv2-s_8xb128_in1k", PHONE)
    assert opened(page) == "litv2_s.in1k"
    page.keep("zoo-phone-row")
    page.execute_script("scrollTo(0, 0)")
    page.keep("zoo-phone")
    choose(page, "family", "LITv2")
    page.keep("zoo-phone-menu")
    wide, paper = page.execute_script(
        "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert wide <= PHONE[0]  # the page does not move sideways
    assert max(map(int, re.findall(r"\d+", paper))) < 80
    assert set(names(page)) == {e.title for e in ENTRIES if e.collection.name == "LITv2" and e.task == "classification"}


def test_dark_on_a_desktop(page: Page) -> None:
    load(page)
    inks = []
    for scheme in ("Light", "Dark", "As the system"):
        page.find_element(By.CSS_SELECTOR, f"label[title='{scheme}']").click()
        inks.append(page.execute_script("return document.getElementById('zoo-chart').layout.font.color"))
        if scheme == "Dark":
            page.keep("zoo-dark")
    assert inks[0] != inks[1] and inks[0] == inks[2]
