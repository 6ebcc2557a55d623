"""Look inside a model: a folder of pictures and one page of them.

    backbones look litv2_s.in1k --image cat.jpg dog.jpg --out look
    backbones look illama_tiny=random --image cat.jpg --only attention rollout --pixel 0.3 0.6

A model is a name with or without tag (published weights), NAME=FILE (a checkpoint) or NAME=random. Sections:

  attention   what a pixel attends to, in each head of each attention layer
  regions     STViT: super tokens as regions
  groups      SG-Former: significance, and the groups that pixels are merged in
  channels    DaViT: attention between the channels of a group, and what each group then holds
  gates       VAN: what the large-kernel attention multiplies the features by
  receptive   effective receptive field: gradient of the centre pixel of each level, averaged over the images
  cam         Grad-CAM: where the evidence for the predicted class is
  rollout     attention from the class token through all layers
  features    colours of the principal components of each level, common to all images
  objects     TokenCut: masks and boxes without labels
  heads       distance, entropy and importance of every head, as CSV and figure

What a model does not have is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import csv
import html
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbones.cli.common import parse_img_size
from backbones.evaluation import attention as att
from backbones.evaluation import inside
from backbones.evaluation.encoder import Encoder, load_encoder
from backbones.images import find_bad_images, list_images
from backbones.layers import (
    ChannelGroupAttention,
    HybridAttention,
    LargeKernelAttention,
    SelfGuidedAttention,
    SuperTokenAttention,
)

HEADS = 6  # shown of a layer
ROWS = 4  # images in pictures of layers
GRID = 32  # side of the largest map that is cut into objects


class Picture(NamedTuple):
    """One picture of the page."""

    path: Path
    caption: str


class Look:
    """What the sections share: the model, its input, and what its layers did with each image."""

    def __init__(self, encoder: Encoder, files: Sequence[str], args: argparse.Namespace) -> None:
        self.encoder, self.files, self.out, self.layers = encoder, list(files), args.out, args.layers
        self.pixel: tuple[float, float] = tuple(args.pixel)
        self.images = encoder.read(files)
        self.pictures = encoder.pictures(self.images).numpy()
        self.size: tuple[int, int] = (self.images.shape[2], self.images.shape[3])
        self.visits: list[list[att.Visit]] = []
        self.maps: list[list[att.PixelAttention]] = []
        with torch.no_grad():
            for image in self.images[:ROWS].split(1):
                with att.record(encoder.model) as visits:
                    encoder.model(image)
                kept = [visit for visit in visits if re.search(self.layers, visit.name)]
                self.visits.append(kept)
                self.maps.append(att.attention_maps(kept, self.size))

    def of(self, kind: type) -> list[list[att.Visit]]:
        """Visits of one kind of layer, for each image."""
        return [[visit for visit in visits if isinstance(visit.module, kind)] for visits in self.visits]

    def title(self, what: str) -> str:
        return f"{self.encoder.title}: {what}"

    def save(self, name: str, rows: Sequence[Sequence[np.ndarray]], caption: str, **options: Any) -> Picture:
        from backbones.evaluation.drawing import save_panels

        path = save_panels(rows, self.out / f"{name}.png", title=self.title(caption), **options)
        return Picture(path, caption)


def draw_attention(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat

    found = []
    for i, first in enumerate(look.maps[0]):
        H, W = first.size
        row, column = min(int(look.pixel[1] * H), H - 1), min(int(look.pixel[0] * W), W - 1)
        count = first.heads[1] - first.heads[0]
        rows = []
        for image, maps in zip(look.pictures, look.maps):
            weights = maps[i].of(row * W + column).cpu().numpy()
            shown = [weights.mean(0), *weights[:HEADS]] if count > 1 else [weights[0]]
            rows.append([image, *(heat(image, values, alpha=0.7) for values in shown)])
        heads = [f"head {first.heads[0] + h}" for h in range(min(count, HEADS))]
        columns = ["image", *(["mean", *heads] if count > 1 else heads)]
        mark = ((column + 0.5) / W, (row + 0.5) / H)
        caption = f"{first.layer}, {first.kind}, {count} heads, map {H}x{W}"
        name = f"attention-{i:02d}-{first.layer}"
        found.append(look.save(name, rows, caption, columns=columns, marks=[mark] * len(rows), side=1.4))
    return found


def draw_regions(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import region_means

    found = []
    for i, visit in enumerate(look.of(SuperTokenAttention)[0]):
        if visit.module.cell_size == 1:
            continue
        rows = []
        for image, visits in zip(look.pictures, look.of(SuperTokenAttention)):
            members, _ = att.super_token_links(visits[i])
            labels = strongest(members, visit.size)
            rows.append([image, region_means(image, labels, outline=True), region_means(image, labels)])
        caption = f"{visit.name}, super tokens of cells of {visit.module.cell_size}x{visit.module.cell_size}"
        columns = ["image", "regions", "mean colours"]
        found.append(look.save(f"regions-{visit.name}", rows, caption, columns=columns))
    return found


def strongest(links: att.Links, size: tuple[int, int]) -> np.ndarray:
    """The cell that each pixel belongs to most: (h, w)"""
    order = links.share.argsort(stable=True)  # later entries, which overwrite, are larger
    labels = torch.zeros(size[0] * size[1], dtype=torch.long)
    for pixel, cell in zip(links.pixel[order].tolist(), links.cell[order].tolist()):
        labels[pixel] = cell
    return labels.view(size).numpy()


def draw_groups(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat, region_means

    found = [
        look.save(
            f"significance-{visit.name}",
            [
                [image, heat(image, visits[i].output[1][0].cpu().numpy(), alpha=0.7)]
                for image, visits in zip(look.pictures, look.of(HybridAttention))
            ],
            f"{visit.name}, significance: the attention that a pixel receives",
            columns=["image", "significance"],
        )
        for i, visit in enumerate(look.of(HybridAttention)[0])
    ]
    for i, visit in enumerate(look.of(SelfGuidedAttention)[0]):
        sizes = [int(merge.weight.shape[1]) for merge in visit.module.merge]
        rows = []
        for image, visits in zip(look.pictures, look.of(SelfGuidedAttention)):
            links, _ = att.merged_groups(visits[i])
            coarse = torch.zeros(visit.size[0] * visit.size[1])
            coarse[links.pixel] = links.share * min(sizes)
            labels = strongest(links, visit.size)
            fine = heat(image, coarse.view(visit.size).numpy(), 1.0)
            rows.append([image, fine, region_means(image, labels)])
        caption = f"{visit.name}, pixels merged in groups of {' and '.join(map(str, sizes))}"
        columns = ["image", "bright: small groups", "mean colours of groups"]
        found.append(look.save(f"groups-{visit.name}", rows, caption, columns=columns))
    return found


def draw_channels(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat

    found = []
    for visit in look.of(ChannelGroupAttention)[0]:
        weights = visit.calls[0].q[0].float().cpu()  # (groups, d, d)
        H, W = visit.size
        with torch.no_grad():
            values = visit.module.qkv(visit.inputs[0])[0, ..., : visit.inputs[0].shape[-1]].float().cpu()
        values = values.unflatten(-1, weights.shape[:2])  # (H, W, groups, d)
        mixed = torch.einsum("gij,hwgj->ghwi", weights, values).abs().mean(-1).numpy()
        matrices = [(w / w.max()).numpy() for w in weights[:HEADS]]
        image = look.pictures[0]
        energy = [heat(image, m - m.min(), alpha=0.7) for m in mixed[:HEADS]]
        caption = f"{visit.name}, {len(weights)} groups of {weights.shape[1]} channels, map {H}x{W}"
        columns = [f"group {g}" for g in range(len(matrices))]
        labels = ["channels", "result"]
        found.append(look.save(f"channels-{visit.name}", [matrices, energy], caption, columns=columns, labels=labels))
    return found


def draw_gates(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat

    layers = look.of(LargeKernelAttention)
    found = []
    for start in range(0, len(layers[0]), HEADS):
        shown = layers[0][start : start + HEADS]
        rows = []
        for image, visits in zip(look.pictures, layers):
            gates = [visit.gate for visit in visits[start : start + HEADS]]
            sizes = [gate[0].abs().mean(-1).float().cpu().numpy() for gate in gates if gate is not None]
            rows.append([image, *(heat(image, values - values.min(), alpha=0.7) for values in sizes)])
        names = [re.sub(r"\.(attn|lka)", "", visit.name) for visit in shown]
        caption = "size of what the large-kernel attention multiplies by, mean over channels"
        found.append(look.save(f"gates-{start // HEADS}", rows, caption, columns=["image", *names], side=1.4))
    return found


def draw_receptive(look: Look) -> list[Picture]:
    from matplotlib import colormaps

    fields = []
    levels = spread(len(look.encoder.widths), HEADS)
    for level in levels:
        field = inside.receptive_field(look.encoder, look.images, level).cpu().numpy()
        scaled = np.clip(1 + np.log10(field / max(field.max(), 1e-30) + 1e-12) / 3, 0, 1)
        fields.append(colormaps["inferno"](scaled)[..., :3])
    caption = f"effective receptive fields of the centre pixel, {len(look.files)} images, logarithmic to a thousandth"
    return [look.save("receptive", [fields], caption, columns=[f"level {level}" for level in levels])]


def spread(count: int, most: int) -> list[int]:
    """Up to ``most`` numbers from 0 to ``count`` - 1, the last one among them."""
    return sorted({count - 1 - i * count // min(count, most) for i in range(min(count, most))})


def draw_cam(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat

    if not getattr(look.encoder.model, "num_classes", 0):
        return []
    rows = []
    with torch.no_grad():
        probabilities = torch.cat([look.encoder.model(image) for image in look.images.split(1)]).softmax(1)
    best, classes = probabilities.max(1)
    for image, picture in zip(look.images.split(1), look.pictures):
        rows.append((picture, heat(picture, inside.grad_cam(look.encoder, image)[0], 1.0)))
    columns = [f"class {c}, {p:.0%}" for c, p in zip(classes.tolist(), best.tolist())]
    caption = "Grad-CAM of the predicted class"
    return [look.save("cam", [list(line) for line in zip(*rows)], caption, columns=columns)]


def draw_rollout(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat

    try:
        maps = [att.rollout(maps).numpy() for maps in look.maps]
    except ValueError:
        return []
    rows = [[image, heat(image, values)] for image, values in zip(look.pictures, maps)]
    caption = "attention rollout from the class token"
    return [look.save("rollout", [list(line) for line in zip(*rows)], caption)]


def draw_features(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import enlarged

    levels = spread(len(look.encoder.widths), HEADS)
    rows = [[picture] for picture in look.pictures]
    for level in levels:
        with torch.no_grad():
            maps = torch.cat([look.encoder.maps(image, level) for image in look.images.split(1)]).float().cpu()
        for row, colours in zip(rows, inside.pca_colours(maps).numpy()):
            row.append(enlarged(colours, *look.size))
    columns = ["image", *(f"level {level}" for level in levels)]
    return [look.save("features", rows, "principal components of each level as colours", columns=columns)]


def draw_objects(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat, masked_object

    reductions = [info["reduction"] for info in look.encoder.model.feature_info]
    level = max((i for i, r in enumerate(reductions) if r <= 16), default=0)
    rows, boxes = [], []
    for file, image, picture in zip(look.files, look.images.split(1), look.pictures):
        with torch.no_grad():
            features = look.encoder.maps(image, level).float().cpu()
        sides = [min(side, GRID) for side in features.shape[1:3]]
        pooled: Tensor = torch.nn.functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), sides)
        cut = inside.token_cut(pooled[0].permute(1, 2, 0))
        rows.append((picture, heat(picture, cut.eigenvector - cut.eigenvector.min()), masked_object(picture, *cut[:2])))
        sides = [look.size[1], look.size[0]] * 2
        boxes.append([file, *(f"{fraction * side:.1f}" for fraction, side in zip(cut.box, sides))])
    write_csv(look.out / "objects.csv", ["file", "left", "top", "right", "bottom"], boxes)
    caption = f"TokenCut on level {level}: second eigenvector, and the object with its box (objects.csv)"
    return [look.save("objects", [list(line) for line in zip(*rows)], caption)]


def draw_heads(look: Look) -> list[Picture]:
    from tqdm import tqdm

    from backbones.evaluation.drawing import head_figure

    per_image = [[att.profile(m, look.size) for m in maps] for maps in look.maps]
    if not per_image[0]:
        return []
    keys = [(m.layer, m.kind, m.call, head) for m in look.maps[0] for head in range(*m.heads)]
    columns = ("layer", "kind", "head", "distance", "entropy", "outside", "importance")
    shown = look.images[:ROWS]
    rows: list[dict[str, Any]] = []
    profiles = [[head for layer in image for head in layer] for image in per_image]
    for i, (layer, kind, call, head) in enumerate(tqdm(keys, desc="masking heads", unit="head", delay=2)):
        means = {key: f"{np.mean([p[i][key] for p in profiles]):.4f}" for key in ("distance", "entropy", "outside")}
        (importance,) = att.head_importance(look.encoder.model, shown, [(layer, call, head)])
        rows.append({"layer": layer, "kind": kind, "head": head, **means, "importance": f"{importance:.6f}"})
    write_csv(look.out / "heads.csv", columns, [[row[key] for key in columns] for row in rows])
    caption = "heads: mean distance and entropy of attention, fall of the log-probability when masked (heads.csv)"
    return [Picture(head_figure(rows, look.out / "heads.png", look.title(caption)), caption)]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


SECTIONS: dict[str, tuple[str, Callable[[Look], list[Picture]]]] = {
    "attention": ("What a pixel attends to", draw_attention),
    "regions": ("Super tokens", draw_regions),
    "groups": ("Significance and merged groups", draw_groups),
    "channels": ("Channel groups", draw_channels),
    "gates": ("Large-kernel attention", draw_gates),
    "receptive": ("Effective receptive fields", draw_receptive),
    "cam": ("Why a class", draw_cam),
    "rollout": ("Attention rollout", draw_rollout),
    "features": ("Features as colours", draw_features),
    "objects": ("Objects without labels", draw_objects),
    "heads": ("Heads", draw_heads),
}
NEEDS_ATTENTION = ("attention", "rollout", "heads")

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }}
body {{ margin: 2rem auto; max-width: 80rem; padding: 0 1rem }}
figure {{ margin: 1rem 0 }} img {{ max-width: 100% }} figcaption {{ font-size: .9rem; opacity: .8 }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def write_page(look: Look, sections: dict[str, list[Picture]]) -> Path:
    """index.html of all pictures, and of what there is none of."""
    body = [f"<p>Weights: {html.escape(look.encoder.weights)}. Images of {look.size[0]}x{look.size[1]} pixels.</p>"]
    if look.encoder.weights == "random":
        body.append("<p><strong>Random weights</strong>: this is the architecture, nothing is learned.</p>")
    missing = [name for name, pictures in sections.items() if not pictures]
    if missing:
        body.append(f"<p>{html.escape(look.encoder.name)} has nothing to show of: {', '.join(missing)}.</p>")
    if any(name in missing for name in NEEDS_ATTENTION) and not look.maps[0]:
        body.append(f"<p>{html.escape(no_attention(look.encoder))}</p>")
    for name, pictures in sections.items():
        if pictures:
            body.append(f"<h2>{SECTIONS[name][0]}</h2>")
        for picture in pictures:
            text = html.escape(picture.caption)
            body.append(f'<figure><img src="{picture.path.name}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    path = look.out / "index.html"
    path.write_text(PAGE.format(title=html.escape(look.encoder.title), body="\n".join(body)), encoding="utf-8")
    return path


def no_attention(encoder: Encoder) -> str:
    """What can be shown of a model without attention."""
    return (
        f"{encoder.name} has no attention between pixels that can be drawn; "
        "gates (VAN), receptive, cam, features and objects show what it sees"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones look", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="NAME, NAME.TAG, NAME=FILE or NAME=random")
    parser.add_argument("--image", nargs="+", required=True, help="image files, folders, or glob patterns in quotes")
    parser.add_argument("--out", type=Path, default=Path("outputs/look"), help="folder of the pictures and index.html")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections")
    parser.add_argument("--pixel", nargs=2, type=float, default=[0.5, 0.5], metavar=("X", "Y"), help="from 0 to 1")
    parser.add_argument("--layers", default="", help="regular expression: attention layers of other names are left out")
    parser.add_argument("--img-size", type=parse_img_size, help="224 or 256x192; by default that of the weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    import matplotlib  # noqa: F401  what is missing is said before work begins
    import pytorch_grad_cam  # noqa: F401

    if not all(0 <= part <= 1 for part in args.pixel):
        parser.error(f"--pixel takes fractions of width and height from 0 to 1, not {args.pixel}")
    try:
        files = [file for source in args.image for file in list_images(source)]
        if bad := find_bad_images(files):
            raise ValueError("; ".join(f"{file}: {reason}" for file, reason in bad.items()))
        encoder = load_encoder(args.model, args.img_size, args.device)
        look = Look(encoder, files, args)
        if not look.maps[0] and set(args.only) <= set(NEEDS_ATTENTION):
            where = f" in layers of {args.layers!r}" if args.layers else ""
            raise ValueError(no_attention(encoder) + where)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    sections = {name: draw(look) for name, (_, draw) in SECTIONS.items() if name in args.only}
    for name, pictures in sections.items():
        print(f"{name}: {', '.join(picture.path.name for picture in pictures) or 'nothing to show in this model'}")
    print(f"\n{write_page(look, sections)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
