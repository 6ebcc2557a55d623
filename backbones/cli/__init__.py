"""The console script: ``backbones train``, ``backbones predict`` and so on; ``python -m backbones`` is the same."""

import argparse
import difflib
import importlib
import os
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
    "look": Command("backbones.cli.look", "draw what a model attends to, sees and finds in images"),
    "probe": Command("backbones.cli.probe", "compare frozen models on a folder of images, and find anomalies"),
    "benchmark": Command("backbones.cli.benchmark", "measure speed and memory beside a baseline"),
    "complexity": Command("backbones.cli.complexity", "count parameters and multiply-accumulates"),
    "convert": Command("backbones.cli.convert", "convert published checkpoints, compare two"),
    "card": Command("backbones.cli.card", "write the hub page of a model"),
    "export": Command("backbones.cli.export", "write a model for ONNX Runtime, OpenVINO or torch.export"),
    "check-export": Command("backbones.cli.check_export", "run an exported file on images, beside its model"),
    "sample": Command("backbones.cli.sample", "draw with a generator"),
    "encode-latents": Command("backbones.cli.encode_latents", "encode images for training a generator"),
    "operators": Command(
        "backbones.mm.operators", "which of mmcv's operators are in use, those of this package or compiled ones"
    ),
}

EPILOG = """backbones COMMAND --help says more. A path that ends in .py, or a module after -m, runs with the
models registered, timm's script for example: backbones validate.py --model van_b0"""

# Which extra of this package brings a module that a command imports.
EXTRAS = {
    **dict.fromkeys(["mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg", "pycocotools", "tensorboard"], "mm"),
    **dict.fromkeys(["fvcore", "matplotlib", "sklearn"], "tools"),
    **dict.fromkeys(["diffusers", "transformers", "sentencepiece"], "diffusion"),
    "pytorch_grad_cam": "look",
    "gdown": "drive",
    **dict.fromkeys(["onnx", "onnxruntime", "onnxscript", "openvino"], "export"),
}


def _run_script(words: list[str]) -> None:
    """Run ``SCRIPT.py ...`` or ``-m MODULE ...`` as Python does, with its arguments and the modules beside it."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


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
    if words and words[0].endswith(".py") or words[:1] == ["-m"] and len(words) > 1:
        _run_script(words)
        return 0
    if not words or words[0] not in COMMANDS:
        parser.parse_args([word for word in words[:1] if word.startswith("-")])  # --help and --version end here
        near = difflib.get_close_matches(words[0] if words else "", COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        parser.error(f"no command {words[0]!r}; {hint}" if words else f"name a command; {hint}")
    try:
        status = importlib.import_module(COMMANDS[words[0]].module).main(words[1:])
    except ImportError as error:
        sys.exit(f"error: backbones {words[0]} needs {_remedy(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # as a shell says it
    return status if isinstance(status, int) else 0


def _remedy(error: ImportError) -> str:
    """What is missing and how to install it; raises the error again if that is not known."""
    if "libGL" in str(error):  # OpenMMLab's packages ask for both builds of OpenCV, and the last one installed wins
        return (
            "OpenCV without a display here (libGL is missing): "
            "pip install --force-reinstall --no-deps opencv-python-headless"
        )
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS or sys.modules.get(package):  # it is there, and lacks something
        raise error
    return f"{package}: pip install 'efficient-backbones[{EXTRAS[package]}]'"
