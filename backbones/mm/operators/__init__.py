"""mmcv's operators without a compiler: on torchvision's kernels and torch, on a CPU and on a GPU.

mmcv imports its operators as one module, ``mmcv._ext``, which is there only if somebody compiled it. Without it
MMDetection does not import. :func:`activate`, which ``import backbones.mm`` calls, gives mmcv a module made of torch
instead (:mod:`backbones.mm.operators.extension`). Compiled operators that work are left alone.
``BACKBONES_MM_OPERATORS`` forces one or the other: ``torch`` or ``compiled``, instead of ``auto``.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

__all__ = ["activate", "are_compiled", "describe", "install_into_mmcv", "main"]

VARIABLE = "BACKBONES_MM_OPERATORS"
CHOICES = ("auto", "torch", "compiled")
MODULE = "mmcv._ext"
INSTALLED_NAME = "_ext.py"
INSTALLED = '''"""mmcv's operators, without a compiler: written by `backbones operators --install-into-mmcv`."""

from backbones.mm.operators.extension import *
from backbones.mm.operators.extension import __getattr__  # noqa: F401
'''


class _Finder(MetaPathFinder):
    """Finds ``mmcv._ext`` in this package, as a file: with a spec, so that who asks whether it exists hears yes."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name("extension.py"))


def activate() -> None:
    """Give mmcv the operators that ``BACKBONES_MM_OPERATORS`` names; does nothing where mmcv is not installed.

    Raises:
        ValueError: the variable has another value.
        ImportError: compiled operators are demanded and do not work, or an OpenMMLab library was imported before and
            has already noted that there are none.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE}={choice}: expected one of {', '.join(CHOICES)}")
    if _mmcv_folder() is None or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if choice != "torch":
        fault = _fault_of_compiled()
        if fault is None or (choice == "auto" and _is_ours(_installed())):
            return
        if choice == "compiled":
            raise ImportError(f"{VARIABLE}=compiled, but {fault}. Unset it to use those of backbones")
        if _installed() is not None:
            warnings.warn(f"{fault}. Operators of backbones are used instead", stacklevel=2)
    _refuse_if_late()
    sys.meta_path.insert(0, _Finder())


def _mmcv_folder() -> Path | None:
    spec = find_spec("mmcv")  # does not import it
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _installed() -> ModuleSpec | None:
    """The module that mmcv's own folder has."""
    return PathFinder.find_spec(MODULE, [str(_mmcv_folder())])


def _is_ours(spec: ModuleSpec | None) -> bool:
    return spec is not None and Path(str(spec.origin)).name == INSTALLED_NAME


def _fault_of_compiled() -> str | None:
    """Why compiled operators cannot be used, or None. One built for another torch may import and fail in any call."""
    import torch

    spec = _installed()
    if spec is None or _is_ours(spec):
        return "mmcv was installed without compiled operators"
    try:
        kept = import_module(MODULE).nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), iou_threshold=0.5, offset=0)
        assert kept.tolist() == [0], kept
    except Exception as error:
        sys.modules.pop(MODULE, None)
        reason = str(error).strip().splitlines() or [""]
        return f"mmcv's compiled operators fail, {spec.origin}: {type(error).__name__}: {reason[0]}"
    return None


def _refuse_if_late() -> None:
    """Raise if MMDetection was imported without operators: it has put functions in their places that only raise."""
    stubs = [
        f"{module_name}.{name}"
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("mmdet.")
        for name, value in list(vars(module).items())
        if _is_stub(value)
    ]
    if stubs or "mmcv.ops" in sys.modules:
        libraries = ("mmdet", "mmseg", "mmpretrain", "mmcv.ops")
        first = next((name for name in sys.modules if name in libraries), "mmdet")
        found = f"{len(stubs)} names in MMDetection, such as {stubs[0]}, only raise" if stubs else "it has others"
        raise ImportError(
            f"{first} was imported before backbones.mm, which brings mmcv's operators, and works without them now "
            f"({found}). Write `import backbones.mm` above the first import of an OpenMMLab library"
        )


def _is_stub(value: object) -> bool:
    code = getattr(getattr(value, "__init__", None) if isinstance(value, type) else value, "__code__", None)
    return any(
        isinstance(text, str) and "requires mmcv to be compiled" in text for text in getattr(code, "co_consts", ())
    )


def are_compiled() -> bool:
    """Whether mmcv has compiled operators; on a CPU they take any memory as that of a contiguous (B, C, H, W)."""
    return _mmcv_folder() is not None and not hasattr(import_module(MODULE), "__getattr__")


def describe() -> str:
    """Which operators are in use, and from where."""
    if _mmcv_folder() is None:
        return "mmcv is not installed: pip install 'efficient-backbones[mm]'"
    extension = import_module(MODULE)
    kind = f"{'compiled with ' * are_compiled()}{extension.get_compiler_version()}"
    return f"mmcv's operators: {kind}\n  {extension.__file__}\n  {VARIABLE}={os.environ.get(VARIABLE, 'auto')}"


def install_into_mmcv() -> Path:
    """Write the operators' module into mmcv's own folder, for scripts that import MMDetection before any config.

    MMDetection's ``tools/test.py`` is one. Compiled operators in the same folder win over it.

    Returns:
        The file. Remove it before mmcv is uninstalled: what is left would look like an mmcv.

    Raises:
        ModuleNotFoundError: mmcv is not installed.
    """
    folder = _mmcv_folder()
    if folder is None:
        raise ModuleNotFoundError("mmcv is not installed: pip install 'efficient-backbones[mm]'")
    path = folder / INSTALLED_NAME
    path.write_text(INSTALLED)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: which operators are in use."""
    parser = argparse.ArgumentParser("backbones operators", description="Print which of mmcv's operators are in use.")
    parser.add_argument(
        "--install-into-mmcv",
        action="store_true",
        help="write a file into mmcv's folder, so that MMDetection's own tools/test.py finds the operators too",
    )
    if parser.parse_args(argv).install_into_mmcv:
        print(f"wrote {install_into_mmcv()}; remove it before you uninstall mmcv")
    print(describe())
