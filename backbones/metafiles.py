"""Metafiles: what was published about each model, and where its weights are; docs/metafile.md describes the format."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from backbones.configs import config_folder

__all__ = [
    "BEYOND_BACKBONES",
    "SOURCES",
    "Collection",
    "Entry",
    "MetafileError",
    "Published",
    "load_metafile",
    "load_metafiles",
]

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
    published_source: str | None  # of both
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
    if config and not (config_folder().parent / config).is_file():
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
        published_source=(raw.get("Published") or {}).get("Source"),
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


def load_metafiles(configs: Path | None = None) -> list[Entry]:
    """All entries of all families, families in alphabetical order.

    Args:
        configs: folder of the families; the shipped configs unless given.

    Raises:
        MetafileError: a file breaks a rule.
    """
    files = sorted((configs or config_folder()).glob("*/metafile.yml"))
    return [entry for file in files for entry in load_metafile(file)]
