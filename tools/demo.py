"""The zoo's main job in a few minutes on a processor: train, evaluate, predict.

    python tools/demo.py                    # or: make demo
    python tools/demo.py --family litv2

Trains a small classifier from its config on scikit-learn's scans of handwritten digits, 1,437 for training; evaluates
it on the 360 held out; writes the checkpoint, a learning curve, predictions and a confusion matrix as pictures.
Exits with status 1 if fewer than --min-top1 percent of the held-out digits are right.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import DictAction
from torch import Tensor

from backbones.cli import predict, train
from backbones.images import list_images
from backbones.mm.training.run import load_config

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("van", "litv2")


def draw_confusion(matrix: Tensor, classes: Sequence[str], path: str | Path) -> None:
    """Write a picture of ``matrix``: counts (true class, predicted class)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix.numpy(), cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)))
    axes.set_xticklabels(classes)
    axes.set_yticklabels(classes)
    for row in range(len(classes)):
        for column in range(len(classes)):
            if count := int(matrix[row, column]):
                colour = "white" if count > matrix.max() / 2 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_title(f"{int(matrix.trace())} of {int(matrix.sum())} held-out images are right")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="van")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/demo-<family>")
    parser.add_argument("--min-top1", type=float, default=97.0, help="percent")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={}, help="overrides of the config")
    args = parser.parse_args(argv)
    work_dir = args.work_dir or Path("work_dirs", f"demo-{args.family}")
    (config,) = (ROOT / "configs" / args.family / "classification").glob("*_digits-64px.py")

    options = [f"{key}={value}" for key, value in args.cfg_options.items()]
    start = time.monotonic()
    train.main([str(config), "--work-dir", str(work_dir)] + (["--cfg-options", *options] if options else []))
    seconds = time.monotonic() - start

    checkpoint = (work_dir / "last_checkpoint").read_text()
    resolved = work_dir / config.name  # the config as it was run, overrides included
    trained = predict.load_mm(str(resolved), checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    classes = trained.meta["classes"]
    data_root = load_config(resolved).val_dataloader.dataset.data_root
    files = list_images(Path(data_root, "val"))
    truth = torch.tensor([classes.index(Path(file).parent.name) for file in files])
    scores, predicted = predict.run(trained.probabilities, files).max(1)
    right = predicted == truth

    matrix = torch.zeros(len(classes), len(classes), dtype=torch.long)
    matrix.index_put_((truth, predicted), torch.ones_like(truth), accumulate=True)
    draw_confusion(matrix, classes, work_dir / "confusion_matrix.png")
    # what went wrong first, then a sample that runs through all classes
    order = sorted(range(len(files)), key=lambda i: (bool(right[i]), i * 37 % len(files)))[:48]
    titles = [f"{classes[predicted[i]]} ({scores[i]:.0%})" for i in order]
    titles = [title if right[i] else f"{title}, is {classes[truth[i]]}" for title, i in zip(titles, order)]
    colours = ["black" if right[i] else "red" for i in order]
    predict.draw([files[i] for i in order], titles, work_dir / "predictions.png", colours)

    top1 = 100 * right.float().mean().item()
    print(f"\ntop-1 on {len(files)} held-out images: {top1:.2f} % after {seconds:.0f} s of training")
    for name in (checkpoint, *(work_dir / f"{n}.png" for n in ("learning_curve", "predictions", "confusion_matrix"))):
        print(name)
    return 0 if top1 >= args.min_top1 else 1


if __name__ == "__main__":
    sys.exit(main())
