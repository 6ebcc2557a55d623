"""Rows of a benchmark: as a line of a table, and as one of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.cli.benchmarking.measuring import MODES
from backbones.cli.benchmarking.runtimes import RUNTIMES
from backbones.cli.common import format_img_size
from backbones.files import whole_file


@dataclass(frozen=True)
class Measured:
    """One mode of a row. A number is None where it was not asked for or could not be measured."""

    seconds: float | None = None  # of a step, median
    ratio: float | None = None  # speed relative to the baseline's by the same runtime
    runtime_ratio: float | None = None  # speed relative to the same model's by the first runtime
    share: float | None = None  # of the machine's best matrix product
    peak_mib: float | None = None


@dataclass(frozen=True)
class Result:
    """One model at one size, by one runtime."""

    model: str
    runtime: str
    img_size: tuple[int, int] | None  # None: not even built
    batch_size: int
    threads: int
    params: int | None = None
    macs: int | None = None  # of one image
    activations: int | None = None
    inference: Measured = Measured()
    train: Measured = Measured()
    product_gflops: float | None = None  # the best matrix product, beside these
    import_mib: float | None = None
    errors: tuple[str, ...] = ()

    def images_per_s(self, mode: str) -> float | None:
        seconds = getattr(self, mode).seconds
        return seconds and self.batch_size / seconds


class Table:
    """Aligned text, line by line: widths are known before the first number is.

    Args:
        modes: Whose columns are shown.
        models: Names that will come.
        baseline: What ratios are of; None for no such column.
        first: The runtime that the others are compared with; None for no such column.
    """

    def __init__(self, modes: Sequence[str], models: Sequence[str], baseline: str | None, first: str | None) -> None:
        self.modes, self.has_baseline, self.has_first = modes, baseline is not None, first is not None
        header = ["model", "runtime", "input", "batch", "threads"]
        for mode in modes:
            header += [f"{mode} ms", "img/s"]
            header += [f"x {baseline}"] * self.has_baseline + [f"x {first}"] * self.has_first
            header += ["% of best", "peak MiB"]
        names = [max(map(len, ["model", *models])), max(map(len, RUNTIMES))]
        self.widths = [*names, *(max(7, len(title)) for title in header[2:])]
        self.header = "\n".join([self._line(header), "  ".join("-" * width for width in self.widths)])

    def row(self, result: Result) -> str:
        """A line, and one below it for each failure."""
        size = format_img_size(result.img_size) if result.img_size else "-"
        cells = [result.model, result.runtime, size, str(result.batch_size), str(result.threads)]
        for mode in self.modes:
            found: Measured = getattr(result, mode)
            cells += [_number(found.seconds, 1, 1000), _number(result.images_per_s(mode), 1)]
            cells += [_number(found.ratio, 2)] * self.has_baseline + [_number(found.runtime_ratio, 2)] * self.has_first
            cells += [_number(found.share, 0, 100), _number(found.peak_mib, 0)]
        return "\n".join([self._line(cells), *(f"  FAILED {error}" for error in result.errors)])

    def _line(self, cells: Sequence[str]) -> str:
        pairs = list(zip(cells, self.widths, strict=True))
        return "  ".join([*(c.ljust(w) for c, w in pairs[:2]), *(c.rjust(w) for c, w in pairs[2:])]).rstrip()


def _number(value: float | None, digits: int, scale: float = 1) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"


def csv_row(result: Result, about: dict[str, str]) -> dict[str, object]:
    """A row as timm's ``results/benchmark-*.csv`` have it (milliseconds, millions, billions), and what those lack.

    ``about`` is the same in every row, so that files of several runs can be joined.
    """
    size = result.img_size and format_img_size(result.img_size)

    def rounded(value: float | None, digits: int, scale: float = 1) -> float | None:
        return None if value is None else round(scale * value, digits)

    params = rounded(result.params, 2, 1e-6)
    row: dict[str, object] = {"model": result.model}
    for mode, prefix in zip(MODES, ("infer", "train"), strict=True):
        row |= {
            f"{prefix}_img_size": size,
            f"{prefix}_samples_per_sec": rounded(result.images_per_s(mode), 2),
            f"{prefix}_step_time": rounded(getattr(result, mode).seconds, 3, 1000),
            f"{prefix}_batch_size": result.batch_size,
        }
        if prefix == "infer":
            macs, activations = rounded(result.macs, 2, 1e-9), rounded(result.activations, 2, 1e-6)
            row |= {"param_count": params, "infer_gmacs": macs, "infer_macts": activations}
    row |= {"runtime": result.runtime, "threads": result.threads}
    for mode, prefix in zip(MODES, ("infer", "train"), strict=True):
        found: Measured = getattr(result, mode)
        row |= {
            f"{prefix}_ratio": rounded(found.ratio, 3),
            f"{prefix}_runtime_ratio": rounded(found.runtime_ratio, 3),
            f"{prefix}_share": rounded(found.share, 3),
            f"{prefix}_peak_mib": rounded(found.peak_mib, 1),
        }
    row |= {
        "product_gflops": rounded(result.product_gflops, 1),
        "import_mib": rounded(result.import_mib, 1),
        "error": "; ".join(result.errors),
    }
    return row | about


def earlier_rows(path: Path, about: dict[str, str]) -> list[dict[str, object]]:
    """Rows that a file has of runs before this one.

    Raises:
        ValueError: If its columns are others.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows: list[dict[str, object]] = list(reader)
    if reader.fieldnames and list(reader.fieldnames) != list(csv_row(Result("", "", None, 1, 1), about)):
        raise ValueError(f"--csv {path} has other columns: name another file")
    return rows


def write_csv(
    path: Path, results: Sequence[Result], about: dict[str, str], earlier: Sequence[dict[str, object]] = ()
) -> None:
    """Writes all rows; the file is whole at any time."""
    rows = [*earlier, *(csv_row(result, about) for result in results)]
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
