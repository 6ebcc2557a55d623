"""What `mkdocs build` does for this site beyond pages: the zoo explorer's data, the libraries that show it, and the
generated parts of the families' pages.

It runs under `python -m mkdocs` in the repository's root. The libraries come out of their Python packages (extra
`docs`), so that the site holds all it needs and fetches nothing.
"""

import json
import re
from importlib.resources import files as package_files
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from backbones.metafiles import load_metafiles
from tools import family_pages
from tools.zoo_data import zoo

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {  # where they go -> where they are
    "assets/zoo/datatables.js": ("itables", "html/dt_bundle.js"),  # DataTables (MIT)
    "assets/zoo/plotly.js": ("plotly", "package_data/plotly.min.js"),  # MIT
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for place, (package, path) in LIBRARIES.items():
        files.append(File.generated(config, place, abs_src_path=str(package_files(package) / path)))
    data = zoo(load_metafiles(), (ROOT / "docs/speed.md").read_text())
    files.append(File.generated(config, "assets/zoo/zoo.json", content=json.dumps(data, ensure_ascii=False)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the generated parts of a family's page."""
    if page.file.src_uri.startswith("families/"):
        return family_pages.page(markdown, load_metafiles())
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings refer to names as Sphinx does, :func:`name`: show the name."""
    return re.sub(r":(?:class|func|meth|mod|attr|data):(?=<code>)", "", html)
