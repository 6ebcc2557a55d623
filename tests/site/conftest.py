"""The site, built once, served from this machine and opened in Chromium."""

import functools
import http.server
import json
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "outputs" / "site"  # looked at by people, ignored by git
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = (1400, 1000), (390, 844)


class Page(webdriver.Chrome):
    """A browser that knows where the site is."""

    site: str

    def go(self, path: str, size: tuple[int, int] = DESKTOP) -> None:
        """Open a page at a size of the window, at whose width it is laid out."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.get(self.site + path)

    def keep(self, name: str) -> None:
        """Keep what is seen as a picture."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def requests(self) -> set[str]:
        """Addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {url for url in sent if not url.startswith(("data:", "blob:"))}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning of the build is an error."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, below a folder as on most hosts."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None: ...

    (site.parent / "backbones").symlink_to(site)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site.parent)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/backbones/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(address: str) -> Iterator[Page]:
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        pytest.fail("these tests need Chromium: run make browser, or sudo apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    page = Page(options=options, service=Service(shutil.which("chromedriver")))
    page.site = address
    page.implicitly_wait(10)  # seconds, until an element is there
    yield page
    page.quit()


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The browser; whatever its console complains about, or a request to elsewhere, fails the test."""
    browser.get_log("browser")
    browser.requests()
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")] == []
    assert {url for url in browser.requests() if not url.startswith((browser.site, "chrome:"))} == set()
