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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.metafiles import Entry, MetafileError, Published, load_metafiles

ROOT = Path(__file__).resolve().parents[1]

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
TASKS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
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
    results = [entry.accuracy(dataset, metric) or "–" for _, dataset, metric in TASKS[entry.task][1]]
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
    results = range(len(columns), len(columns) + len(TASKS[task][1]))
    columns += [title for title, _, _ in TASKS[task][1]] + ["weights", "config", "licence"]
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
        for task, (title, _) in TASKS.items():
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
