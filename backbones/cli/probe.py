"""Compare frozen models on a folder of images, without training them.

    backbones probe van_b0.in1k litv2_s.in1k --data flowers
    backbones probe van_b0=work_dirs/NAME/epoch_20.pth --data flowers --levels all --heads knn linear ep
    backbones probe van_b0.in1k --data bottles --heads anomaly --normal good

A model is a name with or without tag (published weights), NAME=FILE (a checkpoint) or NAME=random. The folder holds
train/CLASS/IMAGE and val/CLASS/IMAGE, or CLASS/IMAGE, of which a fifth is held out. Heads:

  knn      weighted vote of the nearest training images; k and temperature are searched on a fifth of them
  linear   a linear layer on the mean of all positions
  ep       efficient probing: learned queries pool the positions, then a linear layer (arXiv:2506.10178)
  anomaly  distance of every position to the nearest of the images of --normal (PatchCore), with heat maps

Features are computed once and kept in --cache. Written are probe.csv, confusion matrices, what the queries attend to,
and heat maps of anomalies.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.cli.common import device, format_table, output_folder, parse_img_size, positive_int
from backbones.evaluation import anomaly, probing
from backbones.evaluation.encoder import Encoder, load_encoder
from backbones.evaluation.features import extract_features
from backbones.evaluation.folder import Split, open_folder
from backbones.files import whole_file

HEADS = ("knn", "linear", "ep", "anomaly")
COLUMNS = ("model", "weights", "level", "stride", "channels", "head", "score", "settings", "train", "val", "seconds")
SHOWN = 6  # images a picture


class Job:
    """One model's level on one data set: what every head needs."""

    def __init__(self, encoder: Encoder, level: int, train: Split, val: Split, args: argparse.Namespace) -> None:
        self.encoder, self.level, self.train, self.val, self.args = encoder, level, train, val, args
        self.maps, self.val_maps = (
            extract_features(encoder, split, level, args.cache, args.batch_size) for split in (train, val)
        )
        self.labels = torch.from_numpy(train.labels)

    def path(self, kind: str) -> Path:
        name = f"{self.encoder.name}-{Path(self.encoder.weights).stem}".replace("/", "_")
        return self.args.out_dir / f"{kind}-{name}-level{self.level}.png"

    def title(self, what: str) -> str:
        return f"{self.encoder.title}, level {self.level}: {what}"

    def finish(self, head: str, found: np.ndarray) -> float:
        """Draw the confusion matrix; returns the share that is right."""
        from backbones.evaluation.drawing import confusion_matrix

        accuracy = float((found == self.val.labels).mean())
        title = self.title(f"{head} {accuracy:.1%}")
        confusion_matrix(self.val.labels, found, self.val.classes, self.path(f"confusion-{head}"), title)
        return accuracy


def run_knn(job: Job) -> tuple[float, str]:
    memory, queries = job.maps.mean((1, 2)), job.val_maps.mean((1, 2))
    classes = len(job.train.classes)
    options = probing.search_neighbors(memory, job.labels, classes)
    votes = probing.neighbor_votes(memory, job.labels, queries, classes, options)
    return job.finish("knn", votes.argmax(1).numpy()), f"k={options.k} T={options.temperature}"


def run_linear(job: Job) -> tuple[float, str]:
    torch.manual_seed(0)
    probe = probing.LinearProbe(job.maps.shape[3], len(job.train.classes))
    probing.fit_probe(probe, job.maps.flatten(1, 2), job.labels)
    return job.finish("linear", probing.predict(probe, job.val_maps.flatten(1, 2))), ""


def queries_of(encoder: Encoder, level: int, asked: int | None) -> int:
    """Queries of a level; those asked for are checked by building the probe.

    Raises:
        ValueError: If they do not divide the level's channels.
    """
    dim = encoder.widths[level]
    try:
        probe = probing.EfficientProbe(dim, 1, probing.default_queries(dim) if asked is None else asked)
    except ValueError as error:
        raise ValueError(f"{encoder.name}, level {level}: --queries: {error}") from error
    return len(probe.queries)


def run_ep(job: Job) -> tuple[float, str]:
    from backbones.evaluation.drawing import heat, save_panels

    count = queries_of(job.encoder, job.level, job.args.queries)
    torch.manual_seed(0)
    probe = probing.EfficientProbe(job.maps.shape[3], len(job.train.classes), count)
    probing.fit_probe(probe, job.maps.flatten(1, 2), job.labels)
    accuracy = job.finish("ep", probing.predict(probe, job.val_maps.flatten(1, 2)))

    chosen = spread_over_classes(job.val)
    images = job.encoder.pictures(job.encoder.read([job.val.files[i] for i in chosen])).numpy()
    maps = job.val_maps[chosen]
    with torch.inference_mode():
        attention = probe.attention(maps.flatten(1, 2)).unflatten(2, maps.shape[1:3]).numpy()  # (B, Q, h, w)
    # of many queries those that differ most between positions, summed over the images
    peaked = attention.max((2, 3)).mean(0)
    queries = np.sort(np.argsort(-peaked)[:8])
    rows = [[image, *(heat(image, weights[q]) for q in queries)] for image, weights in zip(images, attention)]
    save_panels(
        rows,
        job.path("queries"),
        columns=["image", *(f"query {q}" for q in queries)],
        title=job.title(f"the {len(queries)} sharpest of {count} queries"),
        side=1.2,
    )
    return accuracy, f"Q={count}"


def spread_over_classes(split: Split) -> list[int]:
    """Indices of a few images, of as many classes as there can be."""
    firsts = [np.flatnonzero(split.labels == label) for label in np.unique(split.labels)]
    return [int(i) for turn in zip(*(f[:SHOWN] for f in firsts)) for i in turn][:SHOWN] or [0]


def run_anomaly(job: Job) -> tuple[float, str]:
    from sklearn.metrics import roc_auc_score

    from backbones.evaluation.drawing import heat, save_panels

    normal = job.train.classes.index(job.args.normal)
    memory = anomaly.PatchMemory(job.maps[job.labels == normal], job.args.memory)
    scores = memory.scores(job.val_maps).numpy()
    is_odd = job.val.labels != normal
    auroc = float(roc_auc_score(is_odd, scores))

    usual, odd = (np.flatnonzero(is_odd == flag) for flag in (False, True))
    chosen = [*usual[np.argsort(scores[usual])[[0, -1]]], *odd[np.argsort(-scores[odd])[: SHOWN - 2]]]
    images = job.encoder.pictures(job.encoder.read([job.val.files[i] for i in chosen])).numpy()
    maps: Tensor = memory.heat_maps(job.val_maps[chosen], *images.shape[1:3])
    highest = float(maps.max())
    save_panels(
        [list(images), [heat(image, values, highest) for image, values in zip(images, maps.numpy())]],
        job.path("anomaly"),
        columns=[f"{job.val.classes[job.val.labels[i]]} {scores[i]:.2f}" for i in chosen],
        title=job.title(f"AUROC {auroc:.3f}, normal is {job.args.normal}"),
    )
    return auroc, f"AUROC, {len(memory.patches)} patches"


RUN = {"knn": run_knn, "linear": run_linear, "ep": run_ep, "anomaly": run_anomaly}


def check_data(args: argparse.Namespace) -> tuple[Split, Split]:
    """The images, checked.

    Raises:
        ValueError: See ``open_folder``; also if ``--normal`` is no class, or there is nothing beside it.
    """
    needs_classes = any(head != "anomaly" for head in args.heads)
    train, val = open_folder(args.data, min_classes=2 if needs_classes else 1)
    if "knn" in args.heads:
        counts = np.bincount(train.labels, minlength=len(train.classes))
        if alone := [name for name, count in zip(train.classes, counts, strict=True) if count == 1]:
            raise ValueError(f"{train.root!r} has one image of {', '.join(alone)}: knn holds one out and needs another")
    if "anomaly" in args.heads:
        if args.normal not in train.classes or not (train.labels == train.classes.index(args.normal)).any():
            raise ValueError(f"--normal names the class of normal images, one of {', '.join(train.classes)}")
        is_odd = val.labels != val.classes.index(args.normal)
        if is_odd.all() or not is_odd.any():
            raise ValueError(f"{val.root!r} has {'only' if not is_odd.any() else 'no'} images of {args.normal!r}")
    return train, val


def load_encoders(args: argparse.Namespace) -> list[tuple[Encoder, list[int]]]:
    """The models and the levels that are read; queries are checked before work begins.

    Raises:
        ValueError: See ``load_encoder`` and ``queries_of``; also if a level is no number.
    """
    found = []
    for spec in args.models:
        encoder = load_encoder(spec, args.img_size, args.device)
        try:
            levels = range(len(encoder.widths)) if args.levels == ["all"] else [int(text) for text in args.levels]
        except ValueError as error:
            raise ValueError(f"--levels takes numbers or the word all, not {' '.join(args.levels)!r}") from error
        chosen = [encoder.level(level) for level in levels]
        if "ep" in args.heads:
            for level in chosen:
                queries_of(encoder, level, args.queries)
        found.append((encoder, chosen))
    return found


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="NAME, NAME.TAG, NAME=FILE or NAME=random")
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=["knn", "linear", "ep"])
    parser.add_argument("--levels", nargs="+", default=["-1"], help="numbers from 0, -1 for the last, or all")
    parser.add_argument(
        "--queries", type=positive_int, help="of ep; by default the most up to 32 that divide the channels"
    )
    parser.add_argument("--normal", help="class of normal images, for anomaly")
    parser.add_argument("--memory", type=positive_int, default=2000, help="patches that anomaly keeps")
    parser.add_argument("--img-size", type=parse_img_size, help="224 or 256x192; by default that of the weights")
    parser.add_argument("--batch-size", type=positive_int, default=64)
    parser.add_argument("--out-dir", type=output_folder, default=Path("outputs/probe"))
    parser.add_argument(
        "--cache", type=output_folder, default=Path("outputs/features"), help="folder of computed features"
    )
    parser.add_argument("--no-cache", dest="cache", action="store_const", const=None, help="keep no features")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    import matplotlib  # noqa: F401  what is missing is said before work begins
    import sklearn  # noqa: F401

    try:
        train, val = check_data(args)
        encoders = load_encoders(args)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")

    args.out_dir.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for encoder, levels in encoders:
        for level in levels:
            job = Job(encoder, level, train, val, args)
            for head in args.heads:
                start = time.perf_counter()
                score, settings = RUN[head](job)
                info = encoder.model.feature_info[level]
                values = (
                    encoder.name,
                    encoder.weights,
                    level,
                    info["reduction"],
                    info["num_chs"],
                    head,
                    f"{score:.4f}",
                )
                seconds = f"{time.perf_counter() - start:.1f}"
                cells = (*values, settings, len(train.files), len(val.files), seconds)
                rows.append(dict(zip(COLUMNS, map(str, cells), strict=True)))
                write_rows(args.out_dir / "probe.csv", rows)  # as they come: the next may fail
    print(format_table(COLUMNS, [list(row.values()) for row in rows]))
    print(f"\n{args.out_dir / 'probe.csv'} and pictures beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
