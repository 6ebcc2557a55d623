"""Pictures of numbers over images, each a PNG that stands alone."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

__all__ = ["confusion_matrix", "heat", "save_panels", "signed"]

HEAT = "inferno"
_SIDE = 1.7  # inches of a panel


def heat(image: np.ndarray, values: np.ndarray, highest: float | None = None, alpha: float = 0.6) -> np.ndarray:
    """A map of values as colours over a grey image.

    Args:
        image: (H, W, 3) from 0 to 1.
        values: (h, w), not negative; enlarged to the image without smoothing, so that its pixels show.
        highest: Value of the brightest colour; the map's own highest by default.
        alpha: Share of the colours.
    """
    scaled = values / max(values.max() if highest is None else highest, 1e-12)
    height, width = image.shape[:2]
    bytes_ = (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)
    enlarged = np.asarray(Image.fromarray(bytes_).resize((width, height), Image.Resampling.NEAREST))
    grey = image.mean(-1, keepdims=True).repeat(3, -1)
    return (1 - alpha) * grey + alpha * colormaps[HEAT](enlarged)[..., :3]


def signed(values: np.ndarray, highest: float) -> np.ndarray:
    """A map of values as colours, from blue at -``highest`` over white at 0 to red: (h, w) -> (h, w, 3)"""
    return colormaps["RdBu_r"](np.clip(0.5 + values / (2 * max(highest, 1e-12)), 0, 1))[..., :3]


def save_panels(
    rows: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    marks: Sequence[tuple[float, float] | None] = (),
    side: float = _SIDE,
) -> Path:
    """Write rows of images, with headings.

    Args:
        rows: Images (H, W, 3) or (H, W), from 0 to 1.
        path: A PNG.
        columns: Headings above.
        labels: Headings on the left of the rows.
        title: Above everything.
        marks: For every row (x, y) as fractions of the image's width and height where a cross is drawn, or None.
        side: Width of a panel in inches.
    """
    count = max(map(len, rows))
    ratio = max(image.shape[0] / image.shape[1] for row in rows for image in row)
    top = 0.34 * bool(title) + 0.22 * bool(columns)
    left = 0.3 if labels else 0.0
    width, height = count * side + left, len(rows) * side * ratio + top
    engine = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    title = textwrap.fill(title, max(20, int(width / 0.078)))
    figure = Figure(figsize=(width, height + 0.16 * title.count("\n")), layout=engine)
    for i, (row, line) in enumerate(zip(rows, figure.subplots(len(rows), count, squeeze=False))):
        for j, axes in enumerate(line):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
            if j >= len(row):
                continue
            image = row[j]
            axes.imshow(image, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            if i == 0 and j < len(columns):
                axes.set_title(columns[j], fontsize=8, pad=3)
            if j == 0 and i < len(labels):
                axes.set_ylabel(labels[i], fontsize=8)
            mark = marks[i] if i < len(marks) else None
            if mark is not None:
                x, y = mark
                at = (x * image.shape[1] - 0.5, y * image.shape[0] - 0.5)
                axes.plot(*at, "+", color="white", markersize=9, markeredgewidth=2.6)
                axes.plot(*at, "+", color="red", markersize=8, markeredgewidth=1.2)
    if title:
        figure.suptitle(title, fontsize=9)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 120) -> Path:
    """Write a figure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def confusion_matrix(
    truth: np.ndarray, found: np.ndarray, classes: Sequence[str], path: str | os.PathLike, title: str = ""
) -> Path:
    """Write which classes (rows) are taken for which (columns), as counts and, by colour, shares of the row."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (truth, found), 1)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    side = max(3.2, 0.36 * len(classes))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xlabel("found")
    axes.set_ylabel("truth")
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0, fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    if len(classes) <= 30:
        for i, j in zip(*np.nonzero(counts)):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=7, color=colour)
    return save_figure(figure, path)


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every pixel of a map (h, w, ...) repeated to a height and width, whatever the ratio."""
    y, x = np.arange(height) * values.shape[0] // height, np.arange(width) * values.shape[1] // width
    return values[y[:, None], x[None]]


def region_means(image: np.ndarray, labels: np.ndarray, outline: bool = False) -> np.ndarray:
    """An image (H, W, 3) with the mean colour of each region of a label map (h, w), or with the regions' outlines."""
    labels = enlarged(labels, *image.shape[:2])
    if outline:
        border = np.zeros(labels.shape, bool)
        border[1:] |= labels[1:] != labels[:-1]
        border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        return np.where(border[..., None], [1.0, 0.85, 0.0], image)
    _, flat = np.unique(labels, return_inverse=True)
    flat = flat.reshape(-1)
    sums = [np.bincount(flat, weights=image[..., c].reshape(-1)) for c in range(3)]
    return (np.stack(sums, -1) / np.bincount(flat)[:, None])[flat].reshape(image.shape)


def masked_object(image: np.ndarray, mask: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """An image with everything but a mask (h, w) darkened, and a box given by fractions."""
    height, width = image.shape[:2]
    out = np.where(enlarged(mask, height, width)[..., None], image, 0.3 * image)
    left, top, right, bottom = (int(round(f * s)) for f, s in zip(box, (width, height, width, height)))
    right, bottom, line = right - 1, bottom - 1, max(1, width // 100)
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(bottom - line + 1, bottom + 1), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(right - line + 1, right + 1)),
    ):
        out[rows, columns] = [1.0, 0.85, 0.0]
    return out


def head_figure(rows: Sequence[dict[str, object]], path: str | os.PathLike, title: str) -> Path:
    """Write distance, entropy and importance of every head by layer."""
    layers = list(dict.fromkeys(f"{row['layer']} {row['kind']}" for row in rows))
    figure = Figure(figsize=(9.5, max(2.4, 0.2 * len(layers) + 1)), layout="constrained")
    panels = {"distance": "distance, pixels", "entropy": "entropy, nats", "importance": "importance when masked"}
    figure.suptitle(title, fontsize=9)
    for axes, (key, label) in zip(figure.subplots(1, 3, sharey=True), panels.items()):
        at = [layers.index(f"{row['layer']} {row['kind']}") for row in rows]
        axes.scatter([float(str(row[key])) for row in rows], at, s=14, alpha=0.7)
        axes.set_xlabel(label, fontsize=8)
        axes.set_yticks(range(len(layers)), layers, fontsize=6)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(alpha=0.3)
    figure.axes[0].invert_yaxis()
    return save_figure(figure, path)
