"""Name what is in images.

    python tools/predict.py photos/ --model van_b0.in1k
    python tools/predict.py "photos/**/*.jpg" --config CONFIG --checkpoint work_dirs/NAME/epoch_20.pth

Prints the most probable classes as a table and writes predictions.json and predictions.png. Files that cannot be read
are named and skipped; then the exit status is 1.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

if __package__ in (None, ""):  # run as a script, Python looks for modules beside the script only
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import backbones  # noqa: E402
from backbones.images import find_bad_images, list_images  # noqa: E402
from tools._common import format_table  # noqa: E402

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
        batch = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
        return net(batch.to(device)).softmax(-1)

    return predict, names


def load_mm(config: str, checkpoint: str, device: str) -> tuple[Predictor, list[str]]:
    """Predictor and class names of a classifier trained by tools/train.py, with its config's test pipeline."""
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.registry import MODELS, init_default_scope

    from backbones.mm.run import load_config, load_weights

    cfg = load_config(config)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    cfg.model.backbone.pretrained = False
    cfg.model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    net = MODELS.build(cfg.model)
    meta = load_weights(net, checkpoint)
    net.eval().to(device)
    pipeline = Compose(cfg.test_dataloader.dataset.pipeline)
    classes = (meta.get("dataset_meta") or {}).get("classes")

    def predict(files: list[str]) -> Tensor:
        samples = net.test_step(pseudo_collate([pipeline({"img_path": file}) for file in files]))
        return torch.stack([sample.pred_score for sample in samples])

    return predict, list(classes or [])


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


def draw(files: Sequence[str], titles: Sequence[str], path: str | Path, colours: Sequence[str] | None = None) -> None:
    """Write a grid of at most ``ROWS`` images, each under its title."""
    from matplotlib.figure import Figure

    files = files[:ROWS]
    columns = min(8, len(files))
    rows = -(-len(files) // columns)
    figure = Figure(figsize=(1.6 * columns + 0.2, 1.9 * rows + 0.2), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for i, (axes, file) in enumerate(zip(figure.axes, files)):
        with Image.open(file) as image:
            axes.imshow(image.convert("RGB"))
        axes.set_title(textwrap.fill(titles[i], 24), fontsize=8, color=colours[i] if colours else "black")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="image file, folder, or glob pattern in quotes")
    parser.add_argument("--model", help="pretrained model or tag, such as van_b0.in1k")
    parser.add_argument("--config", help="config of a model trained here")
    parser.add_argument("--checkpoint", help="file or URL that goes with --config")
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out-dir", type=Path, default=Path("outputs/predict"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if bool(args.model) == bool(args.config) or bool(args.config) != bool(args.checkpoint):
        parser.error("give either --model, or --config and --checkpoint")

    try:
        files = list_images(args.images)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    # a config's pipeline may enlarge small scans; timm's preprocessing is for photographs
    bad = find_bad_images(files, min_side=32 if args.model else 1)
    files = [file for file in files if file not in bad]
    try:
        if args.model:
            predict, classes = load_timm(args.model, args.device)
        else:
            predict, classes = load_mm(args.config, args.checkpoint, args.device)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: timm, where a name has no weights
        sys.exit(f"error: cannot predict with {args.model or args.checkpoint}: {error}")

    scores = run(predict, files, args.batch_size) if files else torch.zeros(0, 1)
    classes = classes or [str(i) for i in range(scores.shape[1])]
    k = min(args.topk, scores.shape[1])
    values, indices = scores.topk(k)
    results = [
        {"file": file, "top": [{"class": classes[i], "probability": round(p, 6)} for p, i in zip(ps, ids)]}
        for file, ps, ids in zip(files, values.tolist(), indices.tolist())
    ]
    args.out_dir.mkdir(parents=True, exist_ok=True)
    report = {"model": args.model or args.config, "predictions": results, "skipped": bad}
    (args.out_dir / "predictions.json").write_text(json.dumps(report, indent=1) + "\n")
    if results:
        cells = [[f"{t['class']} {t['probability']:.1%}" for t in result["top"]] for result in results]
        rows = [[file, *row] for file, row in zip(files[:ROWS], cells)]
        print(format_table(["file", *(f"top-{i + 1}" for i in range(k))], rows))
        if len(files) > ROWS:
            print(f"... and {len(files) - ROWS} more in predictions.json")
        draw(files, [row[0] for row in cells], args.out_dir / "predictions.png")
        print(f"\n{args.out_dir / 'predictions.png'}\n{args.out_dir / 'predictions.json'}")
    for file, reason in bad.items():
        print(f"skipped {file}: {reason}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
