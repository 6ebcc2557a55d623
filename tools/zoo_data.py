"""What the zoo explorer of the site shows: the metafiles, snippets and the speeds of docs/speed.md, as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

import backbones
from backbones import cli
from backbones.configs import config_folder
from backbones.metafiles import SOURCES, Entry
from backbones.weights.fetch import Address, sha256_of
from tools.model_zoo import TASKS

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = "come with the package"

_RANGE = re.compile(r"([\d.]+)(?: – ([\d.]+))?$")


def metrics() -> list[dict[str, Any]]:
    """The columns of results: key, title, data set, metric, and the task it is of."""
    return [
        {"key": re.sub(r"\W+", "-", title.lower()), "title": title, "dataset": dataset, "metric": metric, "task": task}
        for task, (_, columns) in TASKS.items()
        for title, dataset, metric in columns
    ]


def speeds(page: str) -> dict[str, list[dict[str, Any]]]:
    """Measured speeds by model, from the tables ``| model | inference | training step |`` of the speed page.

    Returns:
        For each model one row a machine, whose name is the bold text above the table: inference and training step as
        the least and the most times the speed of timm's ``resnet50``, or None.

    Raises:
        ValueError: If the page has no such table, a table has no machine, or a cell is no number.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    machine, reads = "", False
    for line in page.splitlines():
        if bold := re.match(r"\*\*(An? )?(.*?)\*\*", line):
            machine = bold[2]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells == ["model", "inference", "training step"]:
            reads = True
        elif not line.startswith("|"):
            reads = False
        elif reads and cells[0].startswith("`"):
            row: dict[str, Any] = {"machine": machine}
            for key, cell in zip(("inference", "training"), cells[1:], strict=True):
                number = _RANGE.match(cell)
                if not number and cell != "not measured" or not machine:
                    raise ValueError(
                        f"docs/speed.md: {line!r} of {machine or 'an unnamed machine'} has no speed {cell!r}"
                    )
                row[key] = number and [float(number[1]), float(number[2] or number[1])]
            found.setdefault(cells[0].strip("`"), []).append(row)
    if not found:
        raise ValueError("docs/speed.md has no table | model | inference | training step |")
    return found


def weights(entry: Entry) -> dict[str, Any]:
    """Whether and where an entry's weights are to be had.

    Returns:
        ``status`` (``direct``, ``shipped``, ``by hand`` or ``none``), and where known ``url``, ``file``, ``sha256`` (or
        its beginning), ``bytes``, and ``note``.
    """
    if entry.weights:
        address = Address.parse(entry.weights)
        found = {"url": address.url, "file": address.file, "sha256": address.sha256, "bytes": address.size}
        return {"status": "direct", **{key: value for key, value in found.items() if value}}
    note = entry.weights_note or "none published; train it"
    if note == SHIPPED:
        file = Path(backbones.__file__).parent / "weights/digits" / f"{entry.arch}.safetensors"
        size, digest = file.stat().st_size, sha256_of(file)
        return {"status": "shipped", "file": file.name, "sha256": digest, "bytes": size, "note": note}
    return {"status": "by hand" if "https://" in note else "none", "note": note}


def snippets(entry: Entry) -> list[dict[str, str]]:
    """Code that makes, trains, evaluates and exports an entry: title, language, code."""
    has_tag = entry.model in timm.list_pretrained(f"{entry.arch}.*") and not entry.options
    is_gettable = entry.task not in ("detection", "segmentation") and (entry.weights or entry.weights_note == SHIPPED)
    options = "".join(f", {key}={value!r}" for key, value in entry.options.items())
    name = f'"{entry.model if has_tag else entry.arch}"{options}'
    pretrained = ", pretrained=True" if has_tag else ""
    config = Path(entry.config).stem if entry.config else None
    found = []

    def add(title: str, language: str, *lines: str) -> None:
        found.append({"title": title, "language": language, "code": "\n".join(lines)})

    if entry.task in ("detection", "segmentation"):
        assert config, f"{entry.name} has a task of configs and no config"
        checkpoint = entry.weights or f"work_dirs/{config}/CHECKPOINT.pth"
        quoted = f"'{checkpoint}'" if re.search(r"[?&#]", checkpoint) else checkpoint
        lines = [f"backbones test {config} {quoted}"]
        add("Predict", "bash", f"backbones predict photos/ --config {config} --checkpoint {quoted}")
        add("Train and evaluate", "bash", f"backbones train {config}", *lines)
    else:
        lines = ["import backbones", "import timm"]
        if is_gettable and not has_tag:
            lines += ["from backbones.weights import convert_state_dict, load_checkpoint"]
        lines += ["", f"model = timm.create_model({name}{pretrained})"]
        if is_gettable and not has_tag:
            lines += [f'checkpoint = load_checkpoint("{entry.weights}")']
            lines += ["model.load_state_dict(convert_state_dict(checkpoint, model))"]
        add("timm", "python", *lines)
    if entry.task != "generation":
        lines = ["import backbones", "import timm", ""]
        lines += [f"features = timm.create_model({name}{pretrained}, features_only=True)"]
        add(
            "Feature maps",
            "python",
            *lines,
            "print(features.feature_info.channels(), features.feature_info.reduction())",
        )
        backbone = f'model="{entry.model if has_tag else entry.arch}"{options}, pretrained={has_tag}'
        lines = ['custom_imports = dict(imports=["backbones.mm"], allow_failed_imports=False)']
        add(
            "OpenMMLab", "python", *lines, f'model = dict(backbone=dict(_delete_=True, type="ZooBackbone", {backbone}))'
        )
    if config and entry.task not in ("detection", "segmentation"):
        add("Train", "bash", f"backbones train {config}")
    if entry.task == "classification" and not entry.options and "export" in cli.COMMANDS:
        add("Export", "bash", f"backbones export {entry.model if has_tag else entry.arch} --format onnx --out exported")
    return found


def row(entry: Entry, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """An entry as the explorer shows it."""
    results = {}
    for column in metrics():
        values = [
            {"value": result["Metrics"][column["metric"]], "source": result["Source"]}
            for source in SOURCES
            for result in entry.results
            if result["Source"] == source and result["Dataset"] == column["dataset"]
            if column["metric"] in result["Metrics"]
        ]
        if values and column["task"] == entry.task:
            results[column["key"]] = values
    columns = {(column["dataset"], column["metric"]) for column in metrics() if column["task"] == entry.task}
    others = [
        {"title": f"{result['Dataset']} {metric}", "value": value, "source": result["Source"]}
        for result in entry.results
        for metric, value in result["Metrics"].items()
        if (result["Dataset"], metric) not in columns
    ]
    usual = (256, 256) if entry.arch.endswith("_256") else (224, 224)  # what docs/speed.md measures at
    is_timed = entry.task == "classification" and entry.img_size == usual and not entry.options
    published = {"params": entry.published_params, "macs": entry.published_macs}
    return {
        "id": entry.name,
        "title": entry.title,
        "family": entry.collection.name,
        "task": entry.task,
        "tiny": entry.is_tiny,
        "data": ", ".join(entry.training_data),
        "input": "×".join(str(n) for n in dict.fromkeys(entry.img_size)),
        "params": entry.params,
        "macs": entry.macs,
        "published": {key: number.text for key, number in published.items() if number},
        "published_source": entry.published_source,
        "results": results,
        "others": others,
        "speed": list(measured.get(entry.arch, ())) if is_timed else [],
        "weights": weights(entry),
        "license": entry.license,
        "config": entry.config and Path(entry.config).stem,
        "config_text": (config_folder().parent / entry.config).read_text() if entry.config else None,
        "snippets": snippets(entry),
    }


def zoo(entries: Sequence[Entry], speed_page: str) -> dict[str, Any]:
    """All that the explorer shows: families, columns of results, machines, rows."""
    measured = speeds(speed_page)
    rows = [row(entry, measured) for entry in entries]
    timed = [speed["machine"] for row in rows for speed in row["speed"]]
    return {
        "families": {
            c.name: {"paper": c.paper_title, "paper_url": c.paper_url, "code_url": c.code_url}
            for c in dict.fromkeys(entry.collection for entry in entries)
        },
        "metrics": metrics(),
        "machines": sorted(set(timed), key=timed.count, reverse=True),  # the best known first
        "rows": rows,
    }
