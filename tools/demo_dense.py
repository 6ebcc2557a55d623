"""Detection or segmentation in a few minutes on a processor: train, evaluate, predict.

    python tools/demo_dense.py detection        # or: make demo-detection
    python tools/demo_dense.py segmentation     # or: make demo-segmentation

Trains a small model from its config on 800 photographs with scanned digits on them; evaluates it on 100 with other
digits and backgrounds; writes checkpoints, a learning curve, and pictures with the truth on the left and the prediction
on the right. Exits with status 1 if the metric (mAP at IoU 0.5 of boxes, mean IoU) is below --min-metric.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import DictAction

from backbones.cli import predict, test, train

ROOT = Path(__file__).resolve().parents[1]
# config, metric and what makes it a percentage
TASKS = {
    "detection": ("litv2/detection/litv2-test_mask-rcnn-fpn_1xb8-400i_digits-256x192.py", "coco/bbox_mAP_50", 100),
    "segmentation": ("van/segmentation/van-test_semfpn_1xb8-600i_digits-256x192.py", "mIoU", 1),
}
PICTURES = 12


def draw_pairs(config: Path, checkpoint: str, work_dir: Path) -> Path:
    """Truth and prediction of the first ``PICTURES`` test images, each as a picture and all on one sheet."""
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS

    trained = predict.load_mm(str(config), checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    dataset = DATASETS.build(trained.cfg.test_dataloader.dataset)
    folder = work_dir / "pictures"
    folder.mkdir(exist_ok=True)
    pictures = []
    for i in range(min(PICTURES, len(dataset))):
        with torch.inference_mode():
            (sample,) = trained.net.test_step(pseudo_collate([dataset[i]]))  # keeps the annotations
        pictures.append(folder / f"{Path(sample.img_path).stem}.png")
        predict.draw_sample(trained, sample.img_path, sample, pictures[-1], score_thr=0.3)
    sheet = work_dir / "predictions.png"
    predict.draw(pictures, [f"{picture.stem}: truth, prediction" for picture in pictures], sheet, columns=3)
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/demo-<task>")
    parser.add_argument("--min-metric", type=float, default=50.0, help="percent")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={}, help="overrides of the config")
    args = parser.parse_args(argv)
    work_dir = args.work_dir or Path("work_dirs", f"demo-{args.task}")
    name, metric, factor = TASKS[args.task]
    config = ROOT / "configs" / name

    options = [f"{key}={value}" for key, value in args.cfg_options.items()]
    start = time.monotonic()
    train.main([str(config), "--work-dir", str(work_dir)] + (["--cfg-options", *options] if options else []))
    seconds = time.monotonic() - start

    checkpoint = (work_dir / "last_checkpoint").read_text()
    resolved = work_dir / config.name  # the config as it was run, overrides included
    value = factor * test.main([str(resolved), checkpoint, "--work-dir", str(work_dir)])[metric]
    sheet = draw_pairs(resolved, checkpoint, work_dir)

    print(f"\n{metric} on held-out scenes: {value:.1f} % after {seconds:.0f} s of training")
    for path in (checkpoint, work_dir / "learning_curve.png", sheet, work_dir / "pictures"):
        print(path)
    return 0 if value >= args.min_metric else 1


if __name__ == "__main__":
    sys.exit(main())
