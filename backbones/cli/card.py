"""The hub page of a model: what it is, where every number is from, and code that runs it.

    backbones card van_b0.in1k
    backbones card van_b0.in1k --out README.md
    backbones card van-b0_retinanet-fpn_8xb2-1x_coco

A model is a pretrained tag, a registered name, or the name of a config, as the metafiles have it. The page is Markdown
with the metadata that the Hugging Face hub reads: library, task, licence, data sets and results with their sources.
"""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from backbones.cli.common import output_file
from backbones.metafiles import Entry, load_metafiles

__all__ = ["card", "find_entry", "main"]

TASKS = {  # of a metafile -> of the hub, in words
    "classification": ("image-classification", "image classification, feature backbone"),
    "detection": ("object-detection", "object detection"),
    "segmentation": ("image-segmentation", "semantic segmentation"),
    "generation": ("unconditional-image-generation", "image generation"),
}
DATASETS = {
    "ImageNet-1k": "imagenet-1k",
    "ImageNet-21k": "imagenet-21k",
    "ImageNet-22k": "imagenet-22k",
    "COCO": "coco",
}
DATASETS |= {"ADE20K": "ade20k", "Digits": "digits"}
SOURCES = {
    "paper": "the authors' paper",
    "repository": "the authors' repository",
    "mmpretrain": "OpenMMLab's measurement",
    "measured": "measured with this package",
}


def find_entry(name: str) -> Entry:
    """The entry of the metafiles that a name means: a tag or registered name, or the name of a config.

    Raises:
        ValueError: If there is none; near names are suggested.
    """
    entries = load_metafiles()
    classifiers = [entry for entry in entries if entry.task not in ("detection", "segmentation") and not entry.options]
    for entry in entries:
        if entry.name == name:
            return entry
    for key in ("model", "arch"):
        for entry in classifiers:
            if getattr(entry, key) == name:
                return entry
    known = (
        [entry.arch for entry in classifiers]
        + [entry.model for entry in classifiers]
        + [entry.name for entry in entries]
    )
    near = difflib.get_close_matches(name, dict.fromkeys(known), 3)
    hint = f"near names: {', '.join(near)}" if near else "backbones.list_models() lists the models"
    raise ValueError(f"no metafile has the model or config {name!r}; {hint}")


def _metadata(entry: Entry) -> str:
    """The block between the dashes."""
    task, _ = TASKS[entry.task]
    trained_on = [part for data in entry.training_data for part in data.split(", ")]
    # the hub keeps one source for all metrics of a data set: the first, and the rest is in the table
    first = {result["Dataset"]: result["Source"] for result in reversed(entry.results)}
    results = [
        EvalResult(
            task_type=task,
            dataset_type=DATASETS.get(result["Dataset"], result["Dataset"].lower()),
            dataset_name=result["Dataset"],
            metric_type="accuracy" if "Accuracy" in metric else metric.lower().replace(" ", "-"),
            metric_name=metric,
            metric_value=value,
            source_name=SOURCES[result["Source"]],
            source_url=_source_url(entry, result["Source"]),
        )
        for result in entry.results
        if result["Source"] == first[result["Dataset"]]
        for metric, value in result["Metrics"].items()
    ]
    data = ModelCardData(
        model_name=entry.title,
        license=entry.license if entry.license != "not stated" else "unknown",
        library_name="timm" if entry.task == "classification" else None,
        pipeline_tag=task,
        tags=[task, "backbones", *(["timm"] if entry.task == "classification" else [])],
        datasets=[DATASETS[part] for part in trained_on if part in DATASETS] or None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _source_url(entry: Entry, source: str) -> str:
    urls = {"paper": entry.collection.paper_url, "mmpretrain": "https://github.com/open-mmlab/mmpretrain"}
    return urls.get(source, entry.collection.code_url)


def _has_tag(entry: Entry) -> bool:
    """Whether timm knows the entry's weights by name."""
    return entry.task == "classification" and entry.model in timm.list_pretrained(f"{entry.arch}.*")


def _details(entry: Entry) -> list[str]:
    def published(number: Any) -> str:
        return f" ({number.text} printed by {SOURCES[str(entry.published_source)]})" if number else ""

    lines = [
        f"- **Model type:** {TASKS[entry.task][1]}",
        f"- **Parameters:** {entry.params / 1e6:.2f} M{published(entry.published_params)}",
        f"- **Multiply-accumulates:** {entry.macs / 1e9:.3g} G{published(entry.published_macs)}",
        f"- **Image size:** {' x '.join(str(side) for side in entry.img_size)}",
        f"- **Trained on:** {', '.join(entry.training_data)}",
        f"- **Licence of the weights:** {entry.license}",
        f"- **Paper:** [{entry.collection.paper_title}]({entry.collection.paper_url})",
        f"- **Authors' code:** {entry.collection.code_url}",
    ]
    if entry.weights or entry.weights_note:
        lines.append(f"- **Weights:** {entry.weights or entry.weights_note}")
    if _has_tag(entry):
        known = timm.get_pretrained_cfg(entry.model)
        values = f"mean {known.mean}, std {known.std}, {known.interpolation}, crop {known.crop_pct}"
        lines.append(f"- **Preprocessing:** {values}")
    return lines


def _results(entry: Entry) -> list[str]:
    rows = [
        f"| {result['Dataset']} | {metric} | {value} | {SOURCES[result['Source']]} |"
        for result in entry.results
        for metric, value in result["Metrics"].items()
    ]
    return (
        ["## Results", "", "| data | metric | value | from |", "| --- | --- | --- | --- |", *rows, ""] if rows else []
    )


_CLASSIFY = """\
### Image classification

```python
import backbones
import timm
import torch
from PIL import Image

model = timm.create_model("{name}"{options}).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = Image.open("image.jpg").convert("RGB")
with torch.inference_mode():
    probabilities = model(transform(image)[None]).softmax(dim=-1)
values, classes = probabilities.topk(5)
```

### Feature maps

```python
import backbones
import timm
import torch

features = timm.create_model("{name}"{options}, features_only=True).eval()
with torch.inference_mode():
    maps = features(torch.randn(1, 3, {height}, {width}))
for x in maps:
    print(x.shape)  # (batch, channels, height, width)
```

### Embeddings

```python
import backbones
import timm
import torch

model = timm.create_model("{name}"{options}, num_classes=0).eval()
with torch.inference_mode():
    embeddings = model(torch.randn(1, 3, {height}, {width}))  # (batch, model.num_features)
```
"""
_DENSE = """\
```bash
pip install 'efficient-backbones[mm]'
backbones test {config} '{weights}'
backbones predict photos/ --config {config} --checkpoint '{weights}'
```
"""
_GENERATE = """\
```python
import backbones

model = backbones.create_model("{name}")
```
"""


def _usage(entry: Entry) -> str:
    if entry.task in ("detection", "segmentation"):
        return _DENSE.format(config=entry.name, weights=entry.weights or "CHECKPOINT.pth")
    if entry.task == "generation":
        return _GENERATE.format(name=entry.arch)
    name, options = (entry.model, ", pretrained=True") if _has_tag(entry) else (entry.arch, "")
    options += "".join(f", {key}={value!r}" for key, value in entry.options.items())
    _, height, width = timm.get_pretrained_cfg(name).input_size
    return _CLASSIFY.format(name=name, options=options, height=height, width=width)


def card(entry: Entry) -> str:
    """The page of an entry: metadata, details, results with their sources, use and reference."""
    lines = [
        "---",
        _metadata(entry),
        "---",
        f"# Model card for {entry.title if entry.task == 'classification' else entry.name}",
        "",
        f"{entry.collection.name}, {TASKS[entry.task][1]}, in the package `efficient-backbones`: importing `backbones` "
        "registers its models with timm.",
        "",
        "## Model details",
        "",
        *_details(entry),
        "",
        *_results(entry),
        "## Use",
        "",
        _usage(entry),
        "## Reference",
        "",
        f"{entry.collection.paper_title}, {entry.collection.paper_url}",
        "",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("backbones card", description="The hub page of a model, from the metafiles.")
    parser.add_argument("model", help="pretrained tag, registered name, or name of a config")
    parser.add_argument("--out", type=output_file, metavar="FILE", help="write it there instead of printing it")
    args = parser.parse_args(argv)
    try:
        page = card(find_entry(args.model))
    except ValueError as error:
        parser.error(str(error))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page)
    else:
        print(page)
    return 0
