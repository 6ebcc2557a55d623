"""A generator from scratch in some minutes on a processor: train it, draw with it, judge what it draws.

    python tools/demo_generation.py                    # or: make demo-generation

Trains a small PT-DiT on scikit-learn's scans of handwritten digits, those of the training split; draws 200 digits with
guidance; lets a classifier, trained on real digits of the same split only, read them; and looks for copies of training
images. Writes the samples, their grid, the learning curve and report.json.
Exits with status 1 if the classifier reads fewer than --min-agreement percent as the digit that was asked for.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import DictAction
from PIL import Image
from torch import Tensor

from backbones.cli import predict, sample, train
from backbones.mm.training.digits import read_scans

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/ptdit/generation/ptdit-test_1xb128-2k_digits-8px.py"
READER = "test_van.digits"  # trained on real digits of the same split only


def nearest(pixels: Tensor, others: Tensor) -> Tensor:
    """Root mean square difference to the nearest of ``others``, in grey levels. (N, D), (M, D) -> (N,)"""
    return torch.cdist(pixels, others).min(1).values / pixels.shape[1] ** 0.5


def share_of_copies(samples: Tensor) -> dict[str, float]:
    """How close ``samples`` (N, 64), in grey levels, come to training images, beside how close new scans come.

    A sample counts as a copy if it is nearer to its nearest training image than 99 percent of the held-out scans are
    to theirs, so that one percent is what new scans of the same writers would have.
    """
    scans = {
        split: torch.from_numpy(np.stack([scan for _, scan, _ in part])).flatten(1).float()
        for split, part in read_scans().items()
    }
    held_out = nearest(scans["val"], scans["train"])
    drawn = nearest(samples, scans["train"])
    threshold = held_out.quantile(0.01)
    return {
        "copies_percent": 100 * (drawn < threshold).float().mean().item(),
        "copy_threshold": threshold.item(),
        "median_distance": drawn.median().item(),
        "median_distance_held_out": held_out.median().item(),
    }


def judge(folder: Path, device: str) -> dict[str, float]:
    """How a classifier of real digits reads the samples that ``backbones sample`` wrote, and how many are copies."""
    entries = json.loads((folder / "samples.json").read_text())["samples"]
    files = [str(folder / entry["file"]) for entry in entries]
    read = predict.run(predict.load_timm(READER, device)[0], files).argmax(1)
    asked = torch.tensor([int(entry["of"]) for entry in entries])
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files]).flatten(1).float()
    agreement = 100 * (read == asked).float().mean().item()
    return {"samples": len(files), "agreement_percent": agreement, **share_of_copies(pixels)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo-generation"))
    parser.add_argument("--min-agreement", type=float, default=85.0, help="percent")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={}, help="overrides of the config")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    options = [f"{key}={value}" for key, value in args.cfg_options.items()]
    start = time.monotonic()
    train.main([str(CONFIG), "--work-dir", str(args.work_dir)] + (["--cfg-options", *options] if options else []))
    seconds = time.monotonic() - start

    resolved = args.work_dir / CONFIG.name  # the config as it was run, overrides included
    command = ["--config", str(resolved), "--checkpoint", (args.work_dir / "last_checkpoint").read_text()]
    command += ["--labels", *map(str, range(10)), "--count", "20", "--guidance", "2", "--batch-size", "200"]
    sample.main([*command, "--out-dir", str(args.work_dir / "drawn"), "--device", device])

    report = judge(args.work_dir / "drawn", device) | {"training_seconds": seconds}
    (args.work_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"\n{report['agreement_percent']:.1f} % of {report['samples']} samples are read as what was asked for, after "
        f"{seconds:.0f} s of training"
    )
    print(
        f"{report['copies_percent']:.1f} % are nearer to a training image than 99 % of the held-out scans are; the "
        f"median distance is {report['median_distance']:.1f} grey levels, of held-out scans "
        f"{report['median_distance_held_out']:.1f}"
    )
    for name in ("drawn/grid.png", "learning_curve.png", "report.json"):
        print(args.work_dir / name)
    return 0 if report["agreement_percent"] >= args.min_agreement else 1


if __name__ == "__main__":
    sys.exit(main())
