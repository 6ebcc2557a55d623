"""Writes MODEL_ZOO.md from the metafiles in configs/<family>/metafile.yml; docs/metafile.md describes their format.

    python tools/model_zoo.py                  # writes MODEL_ZOO.md
    python tools/model_zoo.py --check          # fails if MODEL_ZOO.md is not what would be written
    python tools/model_zoo.py --csv results.csv  # also as a table in the format of timm's results

Parameters and multiply-accumulates counted here stand in the metafiles, so that this takes no time; the tests count
them again.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("paper", "repository", "mmpretrain", "measured")
NOT_PRINTED = "not printed"
BEYOND_BACKBONES = ("detection", "segmentation")  # tasks whose models are more than a model of the zoo

_COLLECTION_KEYS = {"Name", "Metadata", "Paper", "Code", "License", "README", "Task"}
_MODEL_KEYS = {"Name", "Model", "In Collection", "Metadata", "Published", "Results", "Config"} | {
    "Weights",
    "Weights Note",
    "Weights Layout",
    "Weights Key",
    "Mirrors",
    "License",
    "Converted From",
}
_METADATA_KEYS = {"Training Data", "Input Size", "Options", "Classes", "Drop Path", "Parameters", "FLOPs"}
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class MetafileError(ValueError):
    """A metafile that breaks a rule of docs/metafile.md."""


@dataclass(frozen=True)
class Published:
    """A number as it was printed: "4.1 M" is 4.1e6, give or take half a unit of its last digit, 0.05e6."""

    text: str
    value: float
    half_unit: float

    @classmethod
    def parse(cls, text: str) -> Published:
        """Reads "4.1 M" (units K, M, G, T).

        Raises:
            ValueError: it is not written like that.
        """
        number, _, unit = str(text).partition(" ")
        try:
            decimals = len(number.partition(".")[2])
            return cls(text, float(number) * _UNITS[unit], 0.5 * 10**-decimals * _UNITS[unit])
        except (ValueError, KeyError):
            raise ValueError(f"{text!r} is no printed number; write it like '4.1 M' or '{NOT_PRINTED}'") from None

    def agrees(self, counted: float, tolerance: float = 0.02) -> bool:
        """Whether `counted` is within `tolerance` of the printed number, or rounds to it."""
        return abs(counted - self.value) <= max(tolerance * self.value, self.half_unit)


@dataclass(frozen=True)
class Collection:
    """A family."""

    name: str
    paper_title: str
    paper_url: str
    code_url: str
    license: str
    task: str  # of its models without a config


@dataclass(frozen=True)
class Entry:
    """One published checkpoint, or one configuration without one."""

    name: str
    model: str  # for timm.create_model: registered name, and after a dot the pretrained tag
    collection: Collection
    training_data: tuple[str, ...]
    img_size: tuple[int, int]
    options: Mapping[str, Any]  # of the model, where they are not its own: {"alpha": 0.5}
    num_classes: int
    params: int  # counted here
    macs: int  # counted here, at img_size
    published_params: Published | None  # None: not printed
    published_macs: Published | None
    results: tuple[Mapping[str, Any], ...]  # several of one metric only from several sources
    weights: str | None
    weights_note: str | None
    license: str
    config: str | None

    @property
    def task(self) -> str:
        """What the config is for: its folder's name."""
        return Path(self.config).parts[2] if self.config else self.collection.task

    @property
    def arch(self) -> str:
        """The registered name."""
        return self.model.partition(".")[0]

    @property
    def title(self) -> str:
        """The model with its options: `litv2_s, alpha=0.5`."""
        return ", ".join([self.model, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def is_tiny(self) -> bool:
        """Whether it is a family's tiny variant, which nobody published."""
        return self.arch.startswith("test_")

    def accuracy(self, dataset: str, metric: str = "Top 1 Accuracy", sources: Sequence[str] = SOURCES) -> str:
        """A metric and its source, the first of `sources` that has it; "" if none does."""
        for source in sources:
            for result in self.results:
                if result["Source"] == source and result["Dataset"] == dataset and metric in result["Metrics"]:
                    return f"{result['Metrics'][metric]} *{source}*"
        return ""


def _require(mapping: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if mapping.get(key) is None]
    if missing:
        raise MetafileError(f"{where}: {', '.join(missing)} missing")


def _reject_unknown(mapping: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise MetafileError(f"{where}: unknown key {key!r}; {hint}")


def _entry(raw: Mapping[str, Any], collections: Mapping[str, Collection], where: str) -> Entry:
    _require(raw, ["Name"], where)
    where = f"{where}, {raw['Name']}"
    _reject_unknown(raw, _MODEL_KEYS, where)
    _require(raw, ["Model", "In Collection", "Metadata"], where)
    metadata = raw["Metadata"]
    _reject_unknown(metadata, _METADATA_KEYS, where)
    _require(metadata, ["Training Data", "Input Size", "Parameters", "FLOPs"], where)
    if raw["In Collection"] not in collections:
        raise MetafileError(f"{where}: collection {raw['In Collection']!r} is not in this file")

    is_tiny = raw["Model"].startswith("test_")
    published: dict[str, Published | None] = {}
    for key in ("Parameters", "MACs"):
        text = (raw.get("Published") or {}).get(key)
        if text is None and not is_tiny:
            raise MetafileError(f"{where}: Published: {key} missing; write '{NOT_PRINTED}' if no source prints it")
        try:
            published[key] = None if text in (None, NOT_PRINTED) else Published.parse(text)
        except ValueError as error:
            raise MetafileError(f"{where}: Published: {key}: {error}") from None
    if any(published.values()):
        _require(raw["Published"], ["Source"], f"{where}: Published")

    for result in raw.get("Results") or ():
        _require(result, ["Task", "Dataset", "Metrics", "Source"], f"{where}: Results")
        if result["Source"] not in SOURCES:
            raise MetafileError(f"{where}: Results: source {result['Source']!r} is none of {', '.join(SOURCES)}")
    if not (raw.get("Weights") or raw.get("Weights Note") or is_tiny):
        raise MetafileError(f"{where}: give the address of the Weights, or a Weights Note on how to get them")
    config = raw.get("Config")
    if config and not (ROOT / config).is_file():
        raise MetafileError(f"{where}: there is no {config}")

    size = metadata["Input Size"]  # a number, or text: OpenMMLab's tools stumble over a list of numbers
    if not re.fullmatch(r"\d+(x\d+)?", str(size)):
        raise MetafileError(f"{where}: Input Size {size!r}: write 224, or 256x192 for height and width")
    sides = [int(side) for side in str(size).split("x")]
    data = metadata["Training Data"]
    collection = collections[raw["In Collection"]]
    return Entry(
        name=raw["Name"],
        model=raw["Model"],
        collection=collection,
        training_data=tuple(data) if isinstance(data, list) else (data,),
        img_size=(sides[0], sides[-1]),
        options=metadata.get("Options") or {},
        num_classes=metadata.get("Classes", 1000),
        params=metadata["Parameters"],
        macs=metadata["FLOPs"],
        published_params=published["Parameters"],
        published_macs=published["MACs"],
        results=tuple(raw.get("Results") or ()),
        weights=raw.get("Weights"),
        weights_note=raw.get("Weights Note"),
        license=raw.get("License", collection.license),
        config=config,
    )


def load_metafile(path: Path) -> list[Entry]:
    """Reads one metafile.

    Raises:
        MetafileError: it breaks a rule; the message names the file, the entry and the rule.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise MetafileError(f"{where}: not YAML: {error}") from error
    if not isinstance(content, dict) or not content.get("Collections") or not content.get("Models"):
        raise MetafileError(f"{where}: needs the lists Collections and Models")
    collections = {}
    for raw in content["Collections"]:
        _require(raw, ["Name", "Paper", "Code", "License"], where)
        _reject_unknown(raw, _COLLECTION_KEYS, f"{where}, {raw['Name']}")
        paper = raw["Paper"]
        collections[raw["Name"]] = Collection(
            raw["Name"],
            paper["Title"],
            paper["URL"],
            raw["Code"]["URL"],
            raw["License"],
            raw.get("Task", "classification"),
        )
    entries = [_entry(raw, collections, where) for raw in content["Models"]]
    titles = [f"{entry.title} for {entry.task}" for entry in entries if entry.task not in BEYOND_BACKBONES]
    for values in ([entry.name for entry in entries], titles):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise MetafileError(f"{where}: {', '.join(sorted(twice))} stands there twice")
    return entries


def load_metafiles(configs: Path = ROOT / "configs") -> list[Entry]:
    """All entries of all families, families in alphabetical order.

    Raises:
        MetafileError: a file breaks a rule.
    """
    return [entry for path in sorted(configs.glob("*/metafile.yml")) for entry in load_metafile(path)]


_INTRODUCTION = """\
<!-- Written by tools/model_zoo.py from configs/*/metafile.yml: edit those. -->
# Model zoo

Parameters and multiply-accumulates (MACs, of one image at the input size) are counted here by `backbones complexity`;
beside them stand the published numbers; PT-DiT's input sizes are of latents. Accuracies are in per cent. Each says
where it is from: *paper* and *repository* are the authors' own, *mmpretrain* was measured by OpenMMLab, and only
*measured* was measured here.

A model whose weights have an address is made with `timm.create_model("van_b0.in1k", pretrained=True)`. Detectors and
segmentors are counted whole; the weights in their rows are of the whole too.
"""
# Tasks in the order of the page: title, then column, dataset and metric of each result.
_TASKS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "classification": (
        "",
        (("ImageNet-1k top-1", "ImageNet-1k", "Top 1 Accuracy"), ("digits top-1", "Digits", "Top 1 Accuracy")),
    ),
    "generation": ("", (("ImageNet-1k FID-50K", "ImageNet-1k", "FID-50K"), ("COCO FID-30K", "COCO", "FID-30K"))),
    "detection": (
        "Detection",
        (
            ("COCO box AP", "COCO", "box AP"),
            ("COCO mask AP", "COCO", "mask AP"),
            ("digits box AP", "Digits", "box AP"),
            ("digits mask AP", "Digits", "mask AP"),
        ),
    ),
    "segmentation": (
        "Segmentation",
        (
            ("ADE20K mIoU", "ADE20K", "mIoU"),
            ("ADE20K mIoU, several scales", "ADE20K", "mIoU(ms+flip)"),
            ("digits mIoU", "Digits", "mIoU"),
        ),
    ),
}
_UNVERIFIED = """\
## What could not be verified here

No ImageNet, COCO or ADE20K was at hand, and none of the published weights: nothing above that is marked *paper*,
*repository* or *mmpretrain* was measured with this code. What stands for it: every family reproduces numbers that the
authors' code computes from known weights, key by key in their layout; the tests count every model again, and of
detectors and segmentors one of each kind. Who has the data (`backbones test` says where it is looked for) can measure:

```bash
{commands}
```

A pretrained tag, an address or a file is a checkpoint there; of detectors and segmentors, the authors' own files too.
"""
_EXAMPLES = {
    "van-b0_8xb128_in1k": "van_b0.in1k",
    "litv2-s_8xb128_in1k": "litv2_s.in1k",
    "litv2-s_retinanet-fpn_8xb2-1x_coco": None,  # None: the entry's own weights
    "litv2-s_mask-rcnn-fpn_8xb2-1x_coco": None,
    "litv2-s_semfpn_8xb2-80k_ade20k-512x512": None,
    "van-b2_upernet_8xb2-160k_ade20k-512x512": None,
}


def _row(entry: Entry) -> list[str]:
    def printed(number: Published | None) -> str:
        return "–" if number is None else number.text.partition(" ")[0]

    if entry.weights:
        address, _, named = entry.weights.partition("#file=")
        weights = f"[{named or address.rpartition('/')[2].partition('?')[0]}]({address})"
    else:
        weights = re.sub(r"https://\S+[^\s,)]", r"[its page](\g<0>)", entry.weights_note or "–")
    results = [entry.accuracy(dataset, metric) or "–" for _, dataset, metric in _TASKS[entry.task][1]]
    return [
        f"`{entry.title}`",
        "x".join(str(n) for n in dict.fromkeys(entry.img_size)),
        f"{entry.params / 1e6:.2f}",
        printed(entry.published_params),
        f"{entry.macs / 1e9:.{2 if entry.macs > 1e8 else 4}f}",
        printed(entry.published_macs),
        *results,
        weights,
        f"[{Path(entry.config).stem}]({entry.config})" if entry.config else "–",
        entry.license,
    ]


def _table(task: str, entries: Sequence[Entry]) -> list[str]:
    columns = ["model", "input", "params M, counted", "published", "GMACs, counted", "published"]
    results = range(len(columns), len(columns) + len(_TASKS[task][1]))
    columns += [title for title, _, _ in _TASKS[task][1]] + ["weights", "config", "licence"]
    rows = [_row(entry) for entry in entries]
    empty = {i for i in results if all(row[i] == "–" for row in rows)}
    rows = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell for i, cell in enumerate(row) if i not in empty) + " |" for row in rows]


def render(entries: Sequence[Entry]) -> str:
    """MODEL_ZOO.md: a section a family, in it a table a task, a row an entry; then what is unverified."""
    lines = [_INTRODUCTION]
    for collection in dict.fromkeys(entry.collection for entry in entries):
        lines += [
            f"## {collection.name}\n",
            f"[{collection.paper_title}]({collection.paper_url}); [the authors' code]({collection.code_url}).\n",
        ]
        for task, (title, _) in _TASKS.items():
            chosen = [e for e in entries if e.collection == collection and e.task == task]
            if chosen:
                lines += ([f"### {title}\n"] if title else []) + _table(task, chosen) + [""]
    by_name = {entry.name: entry for entry in entries}
    examples = [(by_name[name], source) for name, source in _EXAMPLES.items() if name in by_name]
    commands = [
        shlex.join(["backbones", "test", Path(e.config or "").stem, source or e.weights or ""])
        for e, source in examples
    ]
    lines.append(_UNVERIFIED.format(commands="\n".join(commands)))
    return "\n".join(lines)


def write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """ImageNet-1k results with the columns of timm's results files, and one more that says where a row is from."""
    import timm

    import backbones  # noqa: F401  registers the models, whose pretrained_cfg has crop and interpolation

    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ["model", "img_size", "top1", "top1_err", "top5", "top5_err", "param_count", "crop_pct"]
        writer.writerow([*columns, "interpolation", "source"])
        for entry in entries:
            registered = entry.model in timm.list_pretrained(f"{entry.arch}.*") and not entry.options
            known = timm.models.get_pretrained_cfg(entry.model) if registered else None
            for result in entry.results:
                if result["Dataset"] != "ImageNet-1k" or "Top 1 Accuracy" not in result["Metrics"]:
                    continue
                row: list[Any] = [entry.title, entry.img_size[0]]
                for metric in ("Top 1 Accuracy", "Top 5 Accuracy"):
                    value = result["Metrics"].get(metric)
                    row += [value, None if value is None else round(100 - value, 3)]
                row.append(f"{entry.params / 1e6:.2f}")
                row += [known.crop_pct, known.interpolation] if known else [None, None]
                writer.writerow([*row, result["Source"]])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if `--check` finds a difference, 2 if a metafile breaks a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    parser.add_argument("--output", type=Path, default=ROOT / "MODEL_ZOO.md", metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write results in timm's format")
    args = parser.parse_args(argv)
    try:
        entries = load_metafiles()
    except MetafileError as error:
        print(error, file=sys.stderr)
        return 2
    page = render(entries)
    if args.csv:
        write_csv(args.csv, entries)
    if not args.check:
        args.output.write_text(page)
        return 0
    found = args.output.read_text() if args.output.exists() else ""
    if found != page:
        difference = difflib.unified_diff(found.splitlines(), page.splitlines(), args.output.name, "metafiles", n=0)
        print("\n".join(list(difference)[:20]), file=sys.stderr)
        print(f"{args.output.name} is out of date: run python tools/model_zoo.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
