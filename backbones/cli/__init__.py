"""The console script: ``backbones train``, ``backbones predict`` and so on; ``python -m backbones`` is the same."""

import argparse
import importlib
import runpy
import sys
from collections.abc import Sequence
from typing import NamedTuple

import backbones

__all__ = ["COMMANDS", "main"]


class Command(NamedTuple):
    """A module with ``main(argv)``, imported when the command runs."""

    module: str
    about: str


COMMANDS = {
    "train": Command("backbones.cli.train", "train a classifier, detector, segmentation model or generator"),
    "test": Command("backbones.cli.test", "evaluate a checkpoint as its config says"),
    "predict": Command("backbones.cli.predict", "name what is in images, or draw boxes, masks and segmentation"),
    "benchmark": Command("backbones.cli.benchmark", "measure speed and memory beside a baseline"),
    "complexity": Command("backbones.cli.complexity", "count parameters and multiply-accumulates"),
    "convert": Command("backbones.cli.convert", "convert published checkpoints, compare two"),
    "sample": Command("backbones.cli.sample", "draw with a generator"),
    "encode-latents": Command("backbones.cli.encode_latents", "encode images for training a generator"),
}

EPILOG = """backbones COMMAND --help says more. A path that ends in .py, or a module after -m, runs with the
models registered, timm's script for example: backbones validate.py --model van_b0"""

# Which extra of this package brings a module that a command imports.
EXTRAS = {
    **dict.fromkeys(["mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg", "pycocotools", "tensorboard"], "mm"),
    **dict.fromkeys(["fvcore", "matplotlib", "sklearn"], "tools"),
    **dict.fromkeys(["diffusers", "transformers", "sentencepiece"], "diffusion"),
    "gdown": "drive",
}


def _run_script(words: Sequence[str]) -> int:
    """Run ``SCRIPT.py ...`` or ``-m MODULE ...`` as Python does; the models are registered already."""
    if words[0] == "-m":
        if len(words) < 2:
            sys.exit("error: -m needs the name of a module")
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{command.about}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="backbones",
        usage="backbones COMMAND ... | SCRIPT.py ... | -m MODULE ...",
        description="Efficient vision transformer backbones.",
        epilog=f"commands:\n{listing}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"backbones {backbones.__version__}")
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help()
        return 2
    if words[0] == "-m" or words[0].endswith(".py"):
        return _run_script(words)
    if words[0] not in COMMANDS:
        parser.parse_args(words[:1] if words[0].startswith("-") else [])
        parser.error(f"no command {words[0]!r}: choose from {', '.join(COMMANDS)}")
    try:
        status = importlib.import_module(COMMANDS[words[0]].module).main(words[1:])
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if not extra:
            raise
        sys.exit(f"error: backbones {words[0]} needs {error.name}: pip install 'efficient-backbones[{extra}]'")
    return status if isinstance(status, int) else 0
