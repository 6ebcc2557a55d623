"""Writes the table of docs/export.md: what is exported, and with what left open, from the cases below.

    python tools/export_page.py          # writes the table
    python tools/export_page.py --check  # fails if it is not what would be written

tests/deploy exports every case in its formats.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from timm.models import model_entrypoint

import backbones
from backbones.deploy import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "export.md"


class Case(NamedTuple):
    """A model of a task, and what every format leaves open."""

    name: str
    task: str
    open: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.task}"


TINY = backbones.list_models("test_*", task="classification")
# Of several variants of a family, the one that has its name.
SEGMENTED = [name for name in TINY if model_entrypoint(name).__module__.endswith(name.replace("test_", ".models."))]
RETINANETS = ("test_van",)  # its head and neck are the same around every backbone
OPEN = {
    "classification": ("batch", "height", "width"),
    "segmentation": ("batch", "height", "width"),
    "detection": ("height", "width"),
    "generation": (),
}
TITLES = {
    "classification": "classifier",
    "segmentation": "semantic segmentation",
    "detection": "RetinaNet",
    "generation": "one denoising step",
}

CASES = [
    *(Case(name, "classification", OPEN["classification"]) for name in TINY),
    *(Case(name, "segmentation", OPEN["segmentation"]) for name in SEGMENTED),
    *(Case(name, "detection", OPEN["detection"]) for name in RETINANETS),
    *(Case(name, "generation", ()) for name in backbones.list_models("test_*", task="generation")),
]


def matrix() -> str:
    """Model, task, and what each format leaves open."""
    lines = [f"| model | task | {' | '.join(FORMATS)} |", "| --- " * (2 + len(FORMATS)) + "|"]
    for case in CASES:
        cells = [", ".join(case.open) or "all fixed"] * len(FORMATS)
        lines.append(f"| `{case.name}` | {TITLES[case.task]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(page: str, table: str) -> str:
    """The page with another table."""
    marked = r"(?s)(<!-- matrix\b[^>]*-->\n).*?(<!-- end -->)"
    return re.sub(marked, lambda m: f"{m[1]}\n{table}\n\n{m[2]}", page, count=1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    args = parser.parse_args(argv)
    before = PAGE.read_text()
    after = replaced(before, matrix())
    if args.check:
        if before == after:
            return 0
        print(f"{PAGE.name} is stale: python tools/export_page.py writes it", file=sys.stderr)
        return 1
    PAGE.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
