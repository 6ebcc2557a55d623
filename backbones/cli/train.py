"""Train a classifier, a detector or a segmenter from its config.

    backbones train van-test_1xb32-20e_digits-64px
    backbones train CONFIG --resume                        # goes on after the last checkpoint in the work folder
    torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch [--sharded]

The work folder receives the log, numbers for TensorBoard, checkpoints that are complete or absent, and
learning_curve.png. docs/long_runs.md says more.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log

from backbones.cli.common import number_in, positive_int, seed
from backbones.kernels import keep_freed_memory
from backbones.mm.training.hooks import RunStopped
from backbones.mm.training.matching import match_data, trained_names
from backbones.mm.training.run import build_runner, check_config, check_work_dir, latest_checkpoint, load_config
from backbones.weights import load_checkpoint


def prepare(args: argparse.Namespace) -> Config:
    """The config with the command line applied.

    Raises:
        ValueError, FileNotFoundError: an option that the config or this machine cannot follow.
    """
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(cfg.filename).stem))
    cfg.launcher = args.launcher
    if args.seed is not None:
        cfg.randomness = dict(seed=args.seed)
    if args.deterministic:
        cfg.randomness = dict(cfg.get("randomness", {}), deterministic=True)
    if args.amp == "float16" and not torch.cuda.is_available():
        raise ValueError("--amp float16 needs a GPU: use --amp bfloat16")
    if args.amp == "float16":
        cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="float16")
    elif args.amp:
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"
    if args.accumulate > 1:
        cfg.optim_wrapper.accumulative_counts = args.accumulate
    if args.auto_scale_lr:
        if not cfg.get("auto_scale_lr", {}).get("base_batch_size"):
            raise ValueError(
                f"{args.config} does not say for which batch size its learning rate is: add "
                "auto_scale_lr=dict(base_batch_size=N)"
            )
        # MMEngine counts the images of an iteration, and a step may have several
        base = cfg.auto_scale_lr.base_batch_size / cfg.optim_wrapper.get("accumulative_counts", 1)
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=base)
    if args.ema is not None:
        if not 0 < args.ema < 1:
            raise ValueError(f"--ema {args.ema}: the newest weights' share is between 0 and 1, 0.0002 for example")
        others = [hook for hook in cfg.get("custom_hooks", []) if hook["type"] != "EMAHook"]
        cfg.custom_hooks = [*others, dict(type="EMAHook", momentum=args.ema)]
    if args.sharded:
        if args.launcher == "none":
            raise ValueError(
                "--sharded divides a model among processes: start them with torchrun and --launcher pytorch"
            )
        if args.amp == "float16":
            raise ValueError("--sharded does not scale losses: use --amp bfloat16")
        if any(hook["type"] == "EMAHook" for hook in cfg.get("custom_hooks", [])):
            raise ValueError("--sharded: no process has all weights to average, leave EMAHook out of custom_hooks")
    if args.resume:
        cfg.load_from = latest_checkpoint(cfg.work_dir) if args.resume == "auto" else args.resume
        cfg.resume = cfg.load_from is not None
    return cfg


def resumed_seed(cfg: Config, checkpoint: dict[str, Any]) -> int | None:
    """The seed of the run that ``cfg`` resumes: its order of images and its augmentation go on."""
    seed = (checkpoint.get("meta") or {}).get("seed")
    chosen = cfg.get("randomness", {}).get("seed")
    if None not in (seed, chosen) and seed != chosen:
        raise ValueError(f"{cfg.load_from} is of a run with seed {seed}, not {chosen}: resume with --seed {seed}")
    return seed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="backbones train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file, or name of one that comes with the package")
    parser.add_argument("--work-dir", help="default: work_dirs/<name of the config>")
    parser.add_argument("--resume", nargs="?", const="auto", help="from this checkpoint; without a value, the last one")
    parser.add_argument(
        "--amp", nargs="?", const="bfloat16", choices=["bfloat16", "float16"], help="mixed precision; float16 on a GPU"
    )
    parser.add_argument(
        "--accumulate", type=positive_int, default=1, metavar="N", help="batches a step of the optimizer"
    )
    parser.add_argument(
        "--ema", type=number_in(0, 1), metavar="SHARE", help="average weights, the newest with this share"
    )
    parser.add_argument("--compile", action="store_true", help="compile the backbone")
    parser.add_argument("--seed", type=seed)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the real batch size")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="overrides: KEY=VALUE ...")
    parser.add_argument("--launcher", choices=["none", "pytorch"], default="none")
    parser.add_argument("--sharded", action="store_true", help="divide parameters and their moments among processes")
    args = parser.parse_args(argv)

    try:
        cfg = prepare(args)
        check_config(cfg)
        check_work_dir(cfg.work_dir)
        names = None
        if cfg.resume:
            checkpoint = load_checkpoint(cfg.load_from)
            cfg.randomness = dict(cfg.get("randomness", {}), seed=resumed_seed(cfg, checkpoint))
            names = trained_names(checkpoint, cfg.load_from)
        warnings = match_data(cfg, names=names)
        if not cfg.resume and (earlier := latest_checkpoint(cfg.work_dir)):
            warnings.append(
                f"{earlier} is of an earlier run, whose files are written over: --resume goes on from it, another "
                "--work-dir keeps it"
            )
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    keep_freed_memory()  # every iteration allocates the same tensors
    try:
        runner = build_runner(cfg, args.sharded)
        for warning in warnings:
            print_log(warning, "current", logging.WARNING)
        if args.compile:
            getattr(runner.model, "module", runner.model).backbone.compile()
        runner.train()
    except RunStopped as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
