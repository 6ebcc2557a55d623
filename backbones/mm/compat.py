"""Where today's packages and OpenMMLab's no longer fit together."""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

__all__ = ["leave_out_multimodal_models"]


def leave_out_multimodal_models() -> None:
    """Let MMPretrain be imported beside transformers 5, without its multimodal models.

    They import names that transformers 5 no longer has, and the whole of MMPretrain fails with them. It leaves them out
    where transformers is missing; the flag that says so is set before MMPretrain is imported. Does nothing where
    either package is missing, transformers is older, or MMPretrain is imported already.
    """
    name = "mmpretrain.utils.dependency"
    try:
        needed = int(version("transformers").split(".")[0]) >= 5
    except PackageNotFoundError:
        return
    package = find_spec("mmpretrain") if needed and "mmpretrain" not in sys.modules else None
    if package is None or package.origin is None:
        return
    spec = spec_from_file_location(name, Path(package.origin).parent / "utils" / "dependency.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.WITH_MULTIMODAL = False  # type: ignore[attr-defined]
    sys.modules[name] = module
