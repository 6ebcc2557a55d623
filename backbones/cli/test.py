"""Evaluate a checkpoint as its config says.

    backbones test CONFIG CHECKPOINT
    backbones test CONFIG exported/NAME.onnx

CONFIG is a file or the name of a config that comes with the package. The checkpoint is one that `backbones train`
wrote, or one in any layout the family reads (the authors' own files included); a file of `backbones export` (.onnx,
.xml, .pt2) runs in its own runtime. Prints the metrics and writes them to metrics.json in the work folder.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from backbones.deploy.runtimes import Runtime
from backbones.mm.training.checks import leaf_datasets
from backbones.mm.training.exported import is_export, open_export, use_export
from backbones.mm.training.hooks import RunStopped
from backbones.mm.training.matching import check_names, match_data, trained_names
from backbones.mm.training.run import build_runner, check_config, check_work_dir, load_config, load_weights
from backbones.weights import load_checkpoint


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        prog="backbones test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file, or name of one that comes with the package")
    parser.add_argument("checkpoint", help="file or URL, or what backbones export wrote")
    parser.add_argument("--work-dir", help="default: work_dirs/<name of the config>")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="overrides: KEY=VALUE ...")
    parser.add_argument("--launcher", choices=["none", "pytorch"], default="none")
    args = parser.parse_args(argv)

    try:
        cfg = load_config(args.config, args.cfg_options)
        cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(cfg.filename).stem))
        cfg.launcher = args.launcher
        # saved weights are the averaged ones already; the hook would put its own in their place
        cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks", []) if hook["type"] != "EMAHook"]
        cfg.load_from = None
        if "backbone" in cfg.model:
            cfg.model.backbone.update(pretrained=False, init_cfg=None)
        check_config(cfg, training=False)
        check_work_dir(cfg.work_dir)
        runtime: Runtime | None = None
        if is_export(args.checkpoint):
            runtime, names = open_export(args.checkpoint, cfg)
        else:
            names = trained_names(load_checkpoint(args.checkpoint), args.checkpoint)
        warnings = match_data(cfg, training=False, names=names)
        runner = build_runner(cfg)
        for warning in warnings:
            runner.logger.warning(warning)
        model = getattr(runner.model, "module", runner.model)
        if runtime:
            use_export(model, runtime)
        else:
            load_weights(model, args.checkpoint)
        for dataset in leaf_datasets(runner.test_loop.dataloader.dataset):
            if names and (classes := getattr(dataset, "metainfo", {}).get("classes")):
                check_names(classes, type(dataset).__name__, names)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    try:
        metrics = {name: float(value) for name, value in runner.test().items()}
    except RunStopped as error:
        sys.exit(f"error: {error}")
    Path(cfg.work_dir, "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


if __name__ == "__main__":
    main()
