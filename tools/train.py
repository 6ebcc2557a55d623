"""Train from a config.

    python tools/train.py configs/van/classification/van-test_1xb32-20e_digits-64px.py
    python tools/train.py CONFIG --resume                        # goes on after the last checkpoint in the work folder
    torchrun --nproc_per_node 8 tools/train.py CONFIG --launcher pytorch

The work folder receives the log, checkpoints that are complete or absent, and learning_curve.png.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

if __package__ in (None, ""):  # run as a script, Python looks for modules beside the script only
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones.layers.kernels import keep_freed_memory  # noqa: E402
from backbones.mm.hooks import UnreadableImages  # noqa: E402
from backbones.mm.run import build_runner, check_config, latest_checkpoint, load_config  # noqa: E402


def prepare(args: argparse.Namespace) -> Config:
    """The config with the command line applied, checked."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(args.config).stem))
    cfg.launcher = args.launcher
    if args.seed is not None:
        cfg.randomness = dict(seed=args.seed)
    if args.deterministic:
        cfg.randomness = dict(cfg.get("randomness", {}), deterministic=True)
    if args.amp:
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"
    if args.auto_scale_lr:
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.load_from = latest_checkpoint(cfg.work_dir) if args.resume == "auto" else args.resume
        cfg.resume = cfg.load_from is not None
    check_config(cfg)
    return cfg


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--work-dir", help="default: work_dirs/<name of the config>")
    parser.add_argument("--resume", nargs="?", const="auto", help="from this checkpoint; without a value, the last one")
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the real batch size")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="overrides: KEY=VALUE ...")
    parser.add_argument("--launcher", choices=["none", "pytorch"], default="none")
    args = parser.parse_args(argv)

    try:
        cfg = prepare(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    keep_freed_memory()  # every iteration allocates the same tensors
    try:
        build_runner(cfg).train()
    except UnreadableImages as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
