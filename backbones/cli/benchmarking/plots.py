"""Pictures of a benchmark: accuracy against latency, and cost against image size."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm

import backbones
from backbones.cli.benchmarking.results import Result
from backbones.cli.common import format_img_size
from backbones.evaluation.drawing import save_figure
from backbones.metafiles import load_metafiles


class Accuracy(NamedTuple):
    """Top-1 on ImageNet-1k in per cent, and where it was published."""

    top1: float
    source: str


def full_name(model: str) -> str:
    """The model with the tag of its weights: timm's default where none is named."""
    config = None if ":" in model else timm.get_pretrained_cfg(model, allow_unregistered=False)
    return f"{config.architecture}.{config.tag}" if config and config.tag else model


def published_accuracies() -> dict[tuple[str, tuple[int, int]], Accuracy]:
    """By model with tag and image size: this package's from the metafiles, timm's models from ``neighbours.csv``.

    That table has what timm measured (``results/results-imagenet.csv`` of pytorch-image-models at aa4b585), and of
    CPUBone, which is not in there, what its repository prints.
    """
    found = {}
    for row in csv.DictReader(Path(__file__).with_name("neighbours.csv").open()):
        size = int(row["img_size"])
        found[row["model"], (size, size)] = Accuracy(float(row["top1"]), row["source"])
    for entry in load_metafiles():
        published = entry.accuracy("ImageNet-1k")
        if entry.task == "classification" and published and not entry.options:
            top1, source = published.replace("*", "").split()
            found[entry.model, entry.img_size] = Accuracy(float(top1), source)
    return found


def plot_accuracy(path: Path, results: Sequence[Result], about: dict[str, str]) -> list[str]:
    """Draws accuracy against the latency of the smallest batch, a panel for each runtime.

    Returns:
        Models that are not in the picture: their accuracy at this size was not published, or they failed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = published_accuracies()
    batch = min(r.batch_size for r in results)
    threads = max(r.threads for r in results)
    runtimes = list(dict.fromkeys(r.runtime for r in results))
    ours = set(backbones.list_models())
    drawn = set()
    columns = min(2, len(runtimes))
    rows = -(-len(runtimes) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(7.5 * columns, 5.5 * rows),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(runtimes) :]:
        axis.remove()
    points: dict[str, list[tuple[float, float, str, bool]]] = {}
    for runtime in runtimes:
        points[runtime] = []
        for r in results:
            accuracy = r.img_size and known.get((full_name(r.model), r.img_size))
            if (r.runtime, r.batch_size, r.threads) != (runtime, batch, threads) or not accuracy:
                continue
            if r.inference.seconds is not None:
                name = r.model.partition(".")[0]
                points[runtime].append((1000 * r.inference.seconds, accuracy.top1, name, name in ours))
                drawn.add(r.model)
    for axis, runtime in zip(axes.flat, runtimes, strict=False):
        for mine, marker, color, label in (
            (True, "o", "tab:blue", "this package, as published"),
            (False, "s", "tab:gray", "timm's, as timm measured (CPUBone: as its repository prints)"),
        ):
            chosen = [(x, y) for x, y, _, own in points[runtime] if own == mine]
            if chosen:
                axis.scatter(*zip(*chosen, strict=True), marker=marker, color=color, s=36, label=label, zorder=3)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
        axis.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axis.grid(alpha=0.3, which="both")
        axis.margins(0.12)
        axis.set_title(runtime, fontsize=11)
        axis.set_xlabel("ms of one image" if batch == 1 else f"ms of a batch of {batch}")
        axis.set_ylabel("ImageNet-1k top-1, %")
    axes.flat[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(
        f"{about['processor']}, {threads} threads, {about['dtype']}, {about['date'].split()[0]}\n{about['versions']}",
        fontsize=9,
    )
    figure.canvas.draw()  # places the axes
    for axis, runtime in zip(axes.flat, runtimes, strict=False):
        _label(axis, points[runtime])
    save_figure(figure, path)
    plt.close(figure)
    return [model for model in dict.fromkeys(r.model for r in results) if model not in drawn]


def _label(axis: Any, points: Sequence[tuple[float, float, str, bool]]) -> None:
    """Names beside points, each at the first of several places that covers no other name or point."""
    from matplotlib.transforms import Bbox

    renderer = axis.figure.canvas.get_renderer()
    marks = [axis.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in marks]
    legend = axis.get_legend()
    taken += [legend.get_window_extent(renderer)] if legend else []
    places = [
        (6, 0, "left", "center"),
        (-6, 0, "right", "center"),
        (0, 6, "center", "bottom"),
        (0, -6, "center", "top"),
    ]
    places += [
        (s * 8, up * d, a, "center") for d in (9, 16, 24, 32) for s, a in ((1, "left"), (-1, "right")) for up in (1, -1)
    ]
    for x, y, name, own in points:
        for dx, dy, horizontal, vertical in places:
            text = axis.annotate(
                name,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8,
                color="black" if own else "dimgray",
                arrowprops={"arrowstyle": "-", "color": "gray", "linewidth": 0.5} if abs(dy) > 6 else None,
            )
            box = text.get_window_extent(renderer)
            own_mark = [b for b in taken if not b.contains(*axis.transData.transform((x, y)))]
            inside = axis.get_window_extent(renderer)
            fits = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if fits and not any(box.overlaps(other) for other in own_mark):
                break
            if (dx, dy) != places[-1][:2]:
                text.remove()
        taken.append(box)


def plot_sizes(path: Path, results: Sequence[Result], modes: Sequence[str], about: dict[str, str]) -> None:
    """Draws time and peak memory against image size, a line for each model, runtime and batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [r for r in results if r.img_size]
    several = {key: len({getattr(r, key) for r in results}) > 1 for key in ("runtime", "batch_size", "threads")}
    lines: dict[str, list[Result]] = {}
    for r in results:
        label = ", ".join([r.model, *(f"{key.partition('_')[0]} {getattr(r, key)}" for key, v in several.items() if v)])
        lines.setdefault(label, []).append(r)
    sizes = {r.img_size: (r.img_size[0] * r.img_size[1]) ** 0.5 for r in results if r.img_size}
    imported = [r.import_mib for r in results if r.import_mib]
    figure, axes = plt.subplots(
        len(modes), 2, figsize=(11, 0.9 + 3.6 * len(modes)), squeeze=False, layout="constrained"
    )
    for mode, pair in zip(modes, axes, strict=True):
        for axis, name in zip(pair, ("ms per image", "peak memory, MiB"), strict=True):
            is_time = name == "ms per image"
            for i, (label, line) in enumerate(lines.items()):
                points = []
                for r in line:
                    found = getattr(r, mode)
                    value = found.seconds and 1000 * found.seconds / r.batch_size if is_time else found.peak_mib
                    if value is not None and r.img_size:
                        points.append((sizes[r.img_size], value))
                if points:
                    style = "--" if line[0].model == about["baseline"].split(",")[0] else "-"
                    axis.plot(*zip(*points, strict=True), style, marker="o", color=f"C{i % 10}", label=label)
            if imported and not is_time:
                axis.axhline(sum(imported) / len(imported), color="gray", linestyle=":", linewidth=1)
                name += " (dotted: libraries)"
            axis.set_xticks(list(sizes.values()), [format_img_size(size) for size in sizes])
            axis.set_xlabel("image size, pixels")
            axis.set_ylabel(name)
            axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
            axis.grid(alpha=0.3)
            axis.set_title("inference" if mode == "inference" else "training step", fontsize=10)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=8)
    figure.suptitle(
        f"{about['processor']}, {about['threads']} threads, batch {about['batch']}, {about['dtype']}, "
        f"{about['layout']}\n{about['versions']}",
        fontsize=9,
    )
    save_figure(figure, path)
    plt.close(figure)
