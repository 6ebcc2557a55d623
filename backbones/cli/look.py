"""Look inside a model: a folder of pictures and one page of them.

    backbones look litv2_s.in1k --image cat.jpg dog.jpg --out look
    backbones look illama_tiny=random --image cat.jpg --only attention rollout --pixel 0.3 0.6
    backbones look ptdit_s_class=FILE --image cat.jpg --autoencoder FOLDER --label 281 --time 300

A model is a name with or without tag (published weights), NAME=FILE (a checkpoint) or NAME=random; of a generator that
was trained here NAME may be its config. A generator reads an image's latents (--autoencoder) or pixels with the noise
of --time, or without --image noise alone. Sections:

  click       a page on which one clicks a pixel, or goes to it by arrow keys, and sees what it attends to in each layer
  attention   what a pixel attends to, in each head of each attention layer
  regions     STViT: super tokens as regions
  groups      SG-Former: significance, and the groups that pixels are merged in
  channels    DaViT: attention between the channels of a group, and what each group then holds
  kernels     AttNet: the kernels that were made from the image
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
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import get_arch_name
from torch import Tensor, nn

import backbones
from backbones.cli import sample
from backbones.cli.common import device, number_in, output_folder, parse_img_size, pattern
from backbones.configs import find_config
from backbones.diffusion import Autoencoder
from backbones.evaluation import attention as att
from backbones.evaluation import inside
from backbones.evaluation.denoiser import Denoiser, make_denoiser, read_condition
from backbones.evaluation.encoder import Encoder, build_model, load_encoder
from backbones.images import find_bad_images, list_images
from backbones.layers import (
    AttentiveConv,
    ChannelGroupAttention,
    HybridAttention,
    LargeKernelAttention,
    SelfGuidedAttention,
    SuperTokenAttention,
)

HEADS = 6  # shown of a layer
ROWS = 4  # images in pictures of layers
KERNELS = 8  # channels shown of a layer
FOR_GENERATORS = ("autoencoder", "time", "label", "prompt", "text_encoder")
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
        self.clicks: list[dict[str, Any]] = []
        self.visits: list[list[att.Visit]] = []
        self.maps: list[list[att.PixelAttention]] = []
        with torch.no_grad():
            for image in self.images[:ROWS].split(1):
                with att.record(encoder.model) as visits:
                    encoder.run(image)
                kept = [visit for visit in visits if re.search(self.layers, visit.name)]
                self.visits.append(kept)
                self.maps.append(att.attention_maps(kept, self.size))

    @property
    def is_classifier(self) -> bool:
        return not isinstance(self.encoder, Denoiser) and bool(getattr(self.encoder.model, "num_classes", 0))

    def of(self, kind: type) -> list[list[att.Visit]]:
        """Visits of one kind of layer, for each image."""
        return [[visit for visit in visits if isinstance(visit.module, kind)] for visits in self.visits]

    @property
    def about(self) -> str:
        """What the model was given."""
        size = f"{self.size[0]}x{self.size[1]}"
        if not isinstance(self.encoder, Denoiser):
            return f"Images of {size} pixels."
        if not self.files:
            return f"Latents of {size}: noise alone."
        return f"Latents of {size} with noise of time {self.encoder.time:g} of 1000, shown without it."

    def title(self, what: str) -> str:
        return f"{self.encoder.title}: {what}"

    def save(self, name: str, rows: Sequence[Sequence[np.ndarray]], caption: str, **options: Any) -> Picture:
        from backbones.evaluation.drawing import save_panels

        path = save_panels(rows, self.out / f"{name}.png", title=self.title(caption), **options)
        return Picture(path, caption)


def draw_clicks(look: Look) -> list[Picture]:
    """Pictures that the page's script cuts and places; ``look.clicks`` says what they hold."""
    from tqdm import tqdm

    from backbones.evaluation.clicks import write_sprite

    if not look.maps[0]:
        return []
    folder = look.out / "click"
    folder.mkdir(parents=True, exist_ok=True)
    names = [Path(file).name for file in look.files] or ["noise"]
    with tqdm(total=sum(map(len, look.maps)), desc="attention of every pixel", unit="layer", delay=2) as bar:
        for i, (name, picture, maps) in enumerate(zip(names, look.pictures, look.maps)):
            file = f"click/image-{i}.png"
            Image.fromarray((picture * 255).round().astype(np.uint8)).save(look.out / file)
            look.clicks.append({"name": name, "file": file, "layers": []})
            for j, attention in enumerate(maps):
                sprite = f"click/{i}-{j:02d}.png"
                title = f"{attention.layer}, {attention.kind}"
                about = write_sprite(attention, look.out / sprite, HEADS)
                look.clicks[-1]["layers"].append({"file": sprite, "title": title, **about})
                bar.update()
    return [Picture(path, "what a chosen pixel attends to") for path in sorted(folder.glob("*.png"))]


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


def draw_kernels(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat, signed

    found = []
    layers = look.of(AttentiveConv)
    for i, first in enumerate(layers[0]):
        kernels = [att.attentive_kernels(visits[i]) for visits in layers]  # (dim, k, k) of each image
        largest = torch.stack(kernels).abs().amax((0, 2, 3))
        channels = largest.argsort(descending=True)[:KERNELS].tolist()
        rows = []
        for image, own, visits in zip(look.pictures, kernels, layers):
            tiles = [signed(own[c].numpy(), float(largest[c])) for c in channels]
            result = visits[i].output[0].abs().mean(-1).float().cpu().numpy()
            rows.append([image, *tiles, heat(image, result - result.min(), alpha=0.7)])
        side = kernels[0].shape[-1]
        caption = (
            f"{first.name}, {side}x{side} kernels of the {len(channels)} largest channels: red positive, blue negative"
        )
        columns = ["image", *(f"channel {c}" for c in channels), "result"]
        found.append(look.save(f"kernels-{first.name}", rows, caption, columns=columns, side=1.2))
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
    caption = f"effective receptive fields of the centre pixel, mean of {len(look.images)}, logarithmic to a thousandth"
    return [look.save("receptive", [fields], caption, columns=[f"level {level}" for level in levels])]


def spread(count: int, most: int) -> list[int]:
    """Up to ``most`` numbers from 0 to ``count`` - 1, the last one among them."""
    return sorted({count - 1 - i * count // min(count, most) for i in range(min(count, most))})


def draw_cam(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat

    if not look.is_classifier:
        return []
    rows = []
    with torch.no_grad():
        probabilities = torch.cat([look.encoder.run(image) for image in look.images.split(1)]).softmax(1)
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
            row.append(enlarged(colours, *row[0].shape[:2]))
    columns = ["image", *(f"level {level}" for level in levels)]
    return [look.save("features", rows, "principal components of each level as colours", columns=columns)]


def draw_objects(look: Look) -> list[Picture]:
    from backbones.evaluation.drawing import heat, masked_object

    if not look.files:  # there are none in noise
        return []
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
        sides = [picture.shape[1], picture.shape[0]] * 2
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
        if look.is_classifier:
            (importance,) = att.head_importance(look.encoder.model, shown, [(layer, call, head)])
        else:
            (importance,) = att.head_effect(look.encoder.model, lambda: look.encoder.run(shown), [(layer, call, head)])
        rows.append({"layer": layer, "kind": kind, "head": head, **means, "importance": f"{importance:.6f}"})
    write_csv(look.out / "heads.csv", columns, [[row[key] for key in columns] for row in rows])
    effect = "fall of the log-probability" if look.is_classifier else "relative change of the result"
    caption = f"heads: mean distance and entropy of attention, {effect} when masked (heads.csv)"
    return [Picture(head_figure(rows, look.out / "heads.png", look.title(caption)), caption)]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


SECTIONS: dict[str, tuple[str, Callable[[Look], list[Picture]]]] = {
    "click": ("Click a pixel", draw_clicks),
    "attention": ("What a pixel attends to", draw_attention),
    "regions": ("Super tokens", draw_regions),
    "groups": ("Significance and merged groups", draw_groups),
    "channels": ("Channel groups", draw_channels),
    "kernels": ("Kernels made from the image", draw_kernels),
    "gates": ("Large-kernel attention", draw_gates),
    "receptive": ("Effective receptive fields", draw_receptive),
    "cam": ("Why a class", draw_cam),
    "rollout": ("Attention rollout", draw_rollout),
    "features": ("Features as colours", draw_features),
    "objects": ("Objects without labels", draw_objects),
    "heads": ("Heads", draw_heads),
}
NEEDS_ATTENTION = ("click", "attention", "rollout", "heads")
NEEDS_LAYER: dict[str, type] = {
    "regions": SuperTokenAttention,
    "groups": HybridAttention,
    "channels": ChannelGroupAttention,
    "kernels": AttentiveConv,
    "gates": LargeKernelAttention,
}

PAGE = Path(__file__).with_name("look.html")
CLICK = """<section id="click" aria-busy="true" aria-label="Click a pixel">
<p>Click a pixel of any picture, or go to it by the arrow keys on the first one (with Shift further): every layer shows
what it attends to, bright where the weight is highest. A cross marks the nearest pixel that was drawn. The address
keeps the view.</p>
<form><label>Image <select name="image"></select></label> <label>Head <select name="head"></select></label>
<output role="status"></output></form>
<div id="click-view"><div id="click-chosen"><canvas id="click-canvas" tabindex="0" role="application"
aria-label="Pixel whose attention is shown; arrow keys move it"></canvas></div>
<div id="click-layers"></div></div>
<script type="application/json" id="click-data">{data}</script>
</section>"""


def write_page(look: Look, sections: dict[str, list[Picture]]) -> Path:
    """index.html of all pictures, and of what there is none of."""
    body = [f"<p>Weights: {html.escape(look.encoder.weights)}. {html.escape(look.about)}</p>"]
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
        if pictures and name == "click":
            data = json.dumps(look.clicks, separators=(",", ":")).replace("<", "\\u003c")
            body.append(CLICK.format(data=data))
            continue
        for picture in pictures:
            text = html.escape(picture.caption)
            body.append(f'<figure><img src="{picture.path.name}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    page = PAGE.read_text(encoding="utf-8").replace("{{title}}", html.escape(look.encoder.title))
    path = look.out / "index.html"
    path.write_text(page.replace("{{body}}", "\n".join(body)), encoding="utf-8")
    return path


def no_attention(encoder: Encoder) -> str:
    """What can be shown of a model without attention."""
    own = {type(module) for module in encoder.model.modules()}
    rest = [
        name
        for name in SECTIONS
        if name not in NEEDS_ATTENTION and NEEDS_LAYER.get(name, nn.Module) in own | {nn.Module}
    ]
    return f"{encoder.name} has no attention between pixels that can be drawn; {', '.join(rest)} show what it sees"


def load_model(args: argparse.Namespace) -> Encoder:
    """The encoder or generator that was asked for, on its device.

    Raises:
        ValueError: If there is none, or an option or image is not for it.
        FileNotFoundError: If something is not where it was said to be.
    """
    name, _, source = args.model.partition("=")
    is_config = bool(source) and not timm.is_model(get_arch_name(name)) and is_shipped(name)
    if not is_config and get_arch_name(name) not in backbones.list_models(task="generation"):
        if given := [f"--{key.replace('_', '-')}" for key in FOR_GENERATORS if getattr(args, key) is not None]:
            raise ValueError(f"{name} is no generator: {', '.join(given)} say what PT-DiT reads")
        if not args.image:
            raise ValueError("give --image: files, folders, or glob patterns in quotes")
        return load_encoder(args.model, args.img_size, args.device)
    size = args.img_size
    if is_config:
        generator = sample.build(argparse.Namespace(config=name, model=None, checkpoint=source), with_weights=True)
        model, size = generator.model, size or generator.side
    else:
        model, name, source = build_model(args.model)
    condition = read_condition(model, args.label, args.prompt, args.text_encoder)
    autoencoder = Autoencoder(args.autoencoder, args.device) if args.autoencoder else None
    has_images = bool(args.image)
    return make_denoiser(model, name, source, has_images, size, args.time, autoencoder, condition, args.device)


def is_shipped(config: str) -> bool:
    """Whether there is a config of that name."""
    try:
        return bool(find_config(config))
    except FileNotFoundError:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones look", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="NAME, NAME.TAG, NAME=FILE or NAME=random")
    parser.add_argument("--image", nargs="*", default=[], help="image files, folders, or glob patterns in quotes")
    parser.add_argument(
        "--out", type=output_folder, default=Path("outputs/look"), help="folder of the pictures and index.html"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections")
    parser.add_argument(
        "--pixel", nargs=2, type=number_in(0, 1), default=[0.5, 0.5], metavar=("X", "Y"), help="from 0 to 1"
    )
    parser.add_argument(
        "--layers", type=pattern, default="", help="regular expression: other attention layers are left out"
    )
    parser.add_argument("--img-size", type=parse_img_size, help="224 or 256x192; by default that of the weights")
    parser.add_argument("--autoencoder", help="generators: folder or hub repository of a diffusers autoencoder")
    parser.add_argument(
        "--time", type=number_in(0, 1000), help="generators: of the noise, 0 (none) to 1000; 500 by default"
    )
    parser.add_argument("--label", type=int, help="generators: class; none by default")
    parser.add_argument("--prompt", help="generators: text; with --text-encoder")
    parser.add_argument("--text-encoder", help="generators: folder or hub repository of T5's encoder and tokenizer")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    import matplotlib  # noqa: F401  what is missing is said before work begins
    import pytorch_grad_cam  # noqa: F401

    try:
        files = [file for source in args.image for file in list_images(source)]
        if bad := find_bad_images(files):
            raise ValueError("; ".join(f"{file}: {reason}" for file, reason in bad.items()))
        encoder = load_model(args)
        look = Look(encoder, files, args)
        if not look.maps[0] and set(args.only) <= set(NEEDS_ATTENTION):
            where = f" in layers of {args.layers!r}" if args.layers else ""
            raise ValueError(no_attention(encoder) + where)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    sections = {name: draw(look) for name, (_, draw) in SECTIONS.items() if name in args.only}
    for name, pictures in sections.items():
        shown = "in the page" if name == "click" else ", ".join(picture.path.name for picture in pictures)
        print(f"{name}: {shown if pictures else 'nothing to show in this model'}")
    print(f"\n{write_page(look, sections)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
