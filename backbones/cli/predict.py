"""Name what is in images, or draw it: boxes, masks, segmentation.

    backbones predict photos/ --model van_b0.in1k
    backbones predict "photos/**/*.jpg" --config CONFIG --checkpoint work_dirs/NAME/epoch_20.pth

A classifier's most probable classes are printed as a table. With the config of a detector or a segmentation model, each
image is drawn into the folder pictures/, and a label map goes to maps/. predictions.json has all results,
predictions.png the first pictures at a glance. Files that cannot be read are named and skipped; then the exit status
is 1. predictions.json is complete after every batch, so that a run that stops leaves what it has found.
"""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import backbones
from backbones.cli.common import device, format_table, number_in, output_folder, positive_int
from backbones.images import find_bad_images, list_images, read_image

ROWS = 48  # shown in the table and in the picture; the JSON file has all
Predictor = Callable[[list[str]], Tensor]  # files -> probabilities (files, classes)


def load_timm(model: str, device: str) -> tuple[Predictor, list[str]]:
    """Predictor and class names of a pretrained timm model, with the preprocessing that belongs to its weights."""
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config

    net = backbones.create_model(model, pretrained=True).eval().to(device)
    transform = create_transform(**resolve_data_config(model=net))
    subset = infer_imagenet_subset(net)
    names = [str(i) for i in range(net.num_classes)]
    if subset:
        names = ImageNetInfo(subset).label_descriptions()

    def predict(files: list[str]) -> Tensor:
        batch = torch.stack([transform(read_image(file)) for file in files])
        return net(batch.to(device)).softmax(-1)

    return predict, names


@dataclass(frozen=True)
class Trained:
    """A model that ``backbones train`` has trained, with its config; called with files, it gives data samples."""

    cfg: Any
    net: nn.Module
    meta: dict  # of the data it was trained on: classes, palette
    pipeline: Callable[[dict], dict]

    @property
    def is_classifier(self) -> bool:
        return self.cfg.default_scope == "mmpretrain"

    @cached_property
    def visualizer(self) -> Any:
        from mmengine.registry import VISUALIZERS

        visualizer = VISUALIZERS.build(dict(self.cfg.visualizer, name=f"predict-{id(self)}", vis_backends=None))
        visualizer.dataset_meta = self.meta
        return visualizer

    def __call__(self, files: Sequence[str]) -> list:
        from mmengine.dataset import pseudo_collate

        return self.net.test_step(pseudo_collate([self.pipeline({"img_path": file}) for file in files]))

    def probabilities(self, files: list[str]) -> Tensor:
        """A classifier's probabilities (files, classes)."""
        return torch.stack([sample.pred_score for sample in self(files)])


def load_mm(config: str, checkpoint: str, device: str) -> Trained:
    """A model of any task, with its config's test pipeline.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or the checkpoint does not fit the config.
    """
    from mmengine.dataset import Compose
    from mmengine.registry import MODELS, init_default_scope

    from backbones.mm.training.run import load_config, load_weights

    cfg = load_config(config)
    init_default_scope(cfg.setdefault("default_scope", "mmpretrain"))
    if cfg.get("model", {}).get("type") == "DiffusionTrainer":
        raise ValueError(f"{config} is of a generator, which `backbones sample` draws with")
    if "backbone" not in cfg.get("model", {}) or "test_dataloader" not in cfg:
        raise ValueError(f"{config} has no model.backbone or no test_dataloader: it is no config of a whole model")
    cfg.model.backbone.pretrained = False
    cfg.model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    net = MODELS.build(cfg.model)
    meta = load_weights(net, checkpoint).get("dataset_meta") or {}
    net.eval().to(device)
    # new images have no annotations
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if not step["type"].endswith("Annotations")]
    return Trained(cfg, net, meta, Compose(steps))


def run(predict: Predictor, files: Sequence[str], batch_size: int = 32) -> Tensor:
    """Probabilities (files, classes) of all ``files``, with a progress bar."""
    from tqdm import tqdm

    scores = []
    with torch.inference_mode(), tqdm(total=len(files), unit="image", disable=None) as bar:
        for start in range(0, len(files), batch_size):
            batch = list(files[start : start + batch_size])
            scores.append(predict(batch).float().cpu())
            bar.update(len(batch))
    return torch.cat(scores)


class Report:
    """A JSON file of ``model``, ``predictions`` and ``skipped`` that is complete whenever something was added."""

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.skipped: dict[str, str] = {}
        self.file = path.open("w", encoding="utf-8")
        self.end = self.file.write(f'{{"model": {json.dumps(model)},\n"predictions": [')
        self.empty = True
        self.add([])

    def add(self, entries: Sequence[dict]) -> None:
        """Append entries of images, in place of the file's last lines."""
        text = "".join(f"{'' if self.empty and i == 0 else ','}\n{json.dumps(e)}" for i, e in enumerate(entries))
        self.empty = self.empty and not entries
        self.file.seek(self.end)
        self.end += self.file.write(text)
        self.file.write(f'\n],\n"skipped": {json.dumps(self.skipped)}}}\n')
        self.file.flush()


def readable(files: Sequence[str], batch_size: int, min_side: int, report: Report) -> Iterator[list[str]]:
    """Batches of those files that can be read, with a progress bar; the others go to the report's ``skipped``."""
    from tqdm import tqdm

    with tqdm(total=len(files), unit="image", disable=None) as bar:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            bad = find_bad_images(batch, min_side)
            if bad:
                report.skipped.update(bad)
                report.add([])
            if good := [file for file in batch if file not in bad]:
                yield good
            bar.update(len(batch))


def draw(
    files: Sequence[str | Path],
    titles: Sequence[str],
    path: str | Path,
    colours: Sequence[str] | None = None,
    columns: int = 8,
) -> None:
    """Write a grid of at most ``ROWS`` images, each under its title; the fewer ``columns``, the larger they are."""
    from matplotlib.figure import Figure

    files = files[:ROWS]
    images = [read_image(file) for file in files]
    width = 12.8 / columns  # inches
    height = width * max(image.height / image.width for image in images) if columns < 8 else width
    columns = min(columns, len(files))
    rows = -(-len(files) // columns)
    figure = Figure(figsize=(width * columns + 0.2, (height + 0.3) * rows + 0.2), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for i, (axes, image) in enumerate(zip(figure.axes, images)):
        axes.imshow(image)
        axes.set_title(textwrap.fill(titles[i], 24), fontsize=8, color=colours[i] if colours else "black")
    figure.savefig(path, dpi=120)


def draw_sample(trained: Trained, file: str, sample: Any, path: str | Path, score_thr: float) -> None:
    """Draw boxes, masks or a segmentation over the image with the library's visualizer; truth, if any, on the left."""
    image = np.array(read_image(file))
    options = {"pred_score_thr": score_thr} if "pred_instances" in sample else {}
    # MMDetection gives every sample instances of truth, without boxes if the image has no annotations
    options["draw_gt"] = "bboxes" in sample.get("gt_instances", ()) or "gt_sem_seg" in sample
    trained.visualizer.add_datasample("", image, sample, out_file=str(path), **options)


def describe_sample(sample: Any, classes: Sequence[str], score_thr: float, map_path: Path) -> dict[str, Any]:
    """What goes into predictions.json: instances, or the label map (written to ``map_path``) and each class's share."""
    if "pred_instances" in sample:
        from pycocotools.mask import encode

        found = sample.pred_instances[sample.pred_instances.scores > score_thr].cpu().numpy()
        instances = [
            {"class": classes[label], "score": round(float(score), 4), "box": [round(float(v), 1) for v in box]}
            for label, score, box in zip(found.labels, found.scores, found.bboxes)
        ]
        for instance, mask in zip(instances, found.get("masks", ())):
            rle = encode(np.asfortranarray(mask.astype(np.uint8)))
            instance["mask"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        return {"instances": instances}
    labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if len(classes) <= 256 else np.uint16)
    map_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(map_path)
    numbers, counts = np.unique(labels, return_counts=True)
    shares = {classes[i]: round(n / labels.size, 4) for i, n in zip(numbers, counts.tolist())}
    return {"map": str(map_path), "shares": shares}


def run_dense(trained: Trained, files: Sequence[str], out_dir: Path, score_thr: float, report: Report) -> None:
    """Predict, draw and describe images one by one, as their sizes may differ."""
    root = Path(os.path.commonpath([Path(file).parent for file in files]))
    pictures: list[Path] = []
    names: list[str] = []
    for (file,) in readable(files, 1, 1, report):
        name = f"{Path(file).relative_to(root)}.png"
        with torch.inference_mode():
            (sample,) = trained([file])
        content = describe_sample(sample, trained.meta["classes"], score_thr, out_dir / "maps" / name)
        picture = out_dir / "pictures" / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_sample(trained, file, sample, picture, score_thr)
        report.add([{"file": file, **content}])
        if len(pictures) < ROWS:
            pictures.append(picture)
            names.append(Path(file).name)
    if pictures:
        draw(pictures, names, out_dir / "predictions.png", columns=4)


def run_classifier(
    predict: Predictor, classes: Sequence[str], batches: Iterator[list[str]], out_dir: Path, topk: int, report: Report
) -> None:
    """Predict batch by batch, then print a table of the first images and draw it."""
    rows: list[list[str]] = []
    count = 0
    for files in batches:
        with torch.inference_mode():
            scores = predict(files).float().cpu()
        if not scores.isfinite().all():
            sys.exit(f"error: the model's probabilities for {files[0]} are not finite: its weights are damaged")
        names = classes or [str(i) for i in range(scores.shape[1])]
        values, indices = scores.topk(min(topk, scores.shape[1]))
        entries: list[dict[str, Any]] = [
            {"file": file, "top": [{"class": names[i], "probability": round(p, 6)} for p, i in zip(ps, ids)]}
            for file, ps, ids in zip(files, values.tolist(), indices.tolist())
        ]
        report.add(entries)
        count += len(entries)
        for entry in entries[: max(ROWS - len(rows), 0)]:
            rows.append([entry["file"], *(f"{t['class']} {t['probability']:.1%}" for t in entry["top"])])
    if rows:
        print(format_table(["file", *(f"top-{i}" for i in range(1, len(rows[0])))], rows))
        if count > ROWS:
            print(f"... and {count - ROWS} more in predictions.json")
        draw([row[0] for row in rows], [row[1] for row in rows], out_dir / "predictions.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", help="image file, folder, or glob pattern in quotes")
    parser.add_argument("--model", help="pretrained model or tag, such as van_b0.in1k")
    parser.add_argument("--config", help="config of a model trained here")
    parser.add_argument("--checkpoint", help="file or URL that goes with --config")
    parser.add_argument("--topk", type=positive_int, default=5, help="classes of a classifier")
    parser.add_argument(
        "--batch-size", type=positive_int, default=32, help="of a classifier; other tasks take image by image"
    )
    parser.add_argument("--score-thr", type=number_in(0, 1), default=0.3, help="boxes below this score are left out")
    parser.add_argument("--out-dir", type=output_folder, default=Path("outputs/predict"))
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if bool(args.model) == bool(args.config) or bool(args.config) != bool(args.checkpoint):
        parser.error("give either --model, or --config and --checkpoint")

    try:
        files = list_images(args.images)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    try:
        if args.model:
            predict, classes = load_timm(args.model, args.device)
        else:
            trained = load_mm(args.config, args.checkpoint, args.device)
            predict, classes = trained.probabilities, trained.meta.get("classes", ())
            if not trained.is_classifier and not classes:
                raise ValueError("it names no classes (dataset_meta), which a checkpoint of `backbones train` does")
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: timm, where a name has no weights
        sys.exit(f"error: cannot predict with {args.model or args.checkpoint}: {error}")

    args.out_dir.mkdir(parents=True, exist_ok=True)
    report = Report(args.out_dir / "predictions.json", args.model or args.config)
    if args.model or trained.is_classifier:
        # a config's pipeline may enlarge small scans; timm's preprocessing is for photographs
        batches = readable(files, args.batch_size, 32 if args.model else 1, report)
        run_classifier(predict, classes, batches, args.out_dir, args.topk, report)
    else:
        run_dense(trained, files, args.out_dir, args.score_thr, report)
    if not report.empty:
        print(f"\n{args.out_dir / 'predictions.png'}\n{report.path}")
    for file, reason in report.skipped.items():
        print(f"skipped {file}: {reason}", file=sys.stderr)
    return 1 if report.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
