"""How mmcv comes to its operators: order of imports, compiled ones, broken ones, the environment variable."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.mm import operators

pytestmark = pytest.mark.mm

SOURCE = Path(operators.__file__).with_name("extension.py")
LATE = r"Write `import backbones.mm` above the first import of an OpenMMLab library"


def run(code: str, choice: str = "torch", extra_path: Path | None = None) -> subprocess.CompletedProcess:
    """Run ``code`` in a fresh interpreter, which imports the package from where this one does."""
    paths = [str(extra_path)] if extra_path else []
    env = {**os.environ, "BACKBONES_MM_OPERATORS": choice, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def output(code: str, *args, **kwargs) -> str:
    result = run(code, *args, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture
def installed(tmp_path):
    """Write an mmcv whose ``_ext`` is the given text; mmcv's own folder is not touched."""

    def write(text: str | None) -> Path:
        package = tmp_path / "mmcv"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        if text is not None:
            # Compiled modules win over a file of Python in one folder; a package does too, and can be written here.
            (package / "_ext").mkdir()
            (package / "_ext" / "__init__.py").write_text(text)
        return tmp_path

    return write


def test_importing_the_package_gives_mmcv_its_operators():
    code = "import backbones.mm, mmdet.models, mmseg.models, mmcv._ext; print(mmcv._ext.__file__)"
    assert output(code) == str(SOURCE)


def test_the_module_can_be_found():
    """MMEngine asks for it by ``find_spec``, which fails on modules that were merely put into ``sys.modules``."""
    code = "import backbones.mm, mmcv.ops, importlib.util as u; print(u.find_spec('mmcv._ext').origin)"
    assert output(code) == str(SOURCE)


@pytest.mark.parametrize("library", ["mmdet.structures.mask", "mmpretrain.models"])
def test_an_activation_that_comes_too_late_says_so(library):
    code = f"import contextlib\nwith contextlib.suppress(Exception): import {library}\nimport backbones.mm"
    result = run(code)
    assert result.returncode == 1
    assert LATE in result.stderr and f"ImportError: {library.split('.')[0]} was imported before" in result.stderr


def test_a_late_activation_is_none_where_nothing_was_missed():
    assert output("import mmdet, mmseg, mmcv\nimport backbones.mm, mmdet.models\nprint('fine')") == "fine"


WORKING = "import torch\ndef nms(boxes, scores, iou_threshold, offset): return torch.tensor([0])"
BROKEN = "def nms(*args, **kwargs): raise RuntimeError('CUDA driver version is insufficient')"
WHICH = "import backbones.mm, mmcv._ext; print(mmcv._ext.__file__)"


def test_compiled_operators_that_work_win(installed):
    root = installed(WORKING)
    assert output(WHICH, "auto", root) == str(root / "mmcv/_ext/__init__.py")
    assert output(WHICH, "compiled", root) == str(root / "mmcv/_ext/__init__.py")
    assert output(WHICH, "torch", root) == str(SOURCE)


@pytest.mark.parametrize("text", [BROKEN, "raise ImportError('undefined symbol: _ZN3c10')"])
def test_compiled_operators_that_fail_do_not(installed, text):
    root = installed(text)
    result = run(WHICH, "auto", root)
    assert result.stdout.strip() == str(SOURCE), result.stderr
    assert "mmcv's compiled operators fail" in result.stderr and text.split("'")[1] in result.stderr
    result = run(WHICH, "compiled", root)
    assert result.returncode == 1
    assert "ImportError: BACKBONES_MM_OPERATORS=compiled, but mmcv's compiled operators fail" in result.stderr


def test_compiled_operators_are_demanded_in_vain(installed):
    result = run(WHICH, "compiled", installed(None))
    assert result.returncode == 1 and "mmcv was installed without compiled operators" in result.stderr


def test_the_variable_has_three_values(monkeypatch):
    monkeypatch.setenv("BACKBONES_MM_OPERATORS", "cuda")
    with pytest.raises(ValueError, match="BACKBONES_MM_OPERATORS=cuda: expected one of auto, torch, compiled"):
        operators.activate()


def test_the_command_says_which_are_in_use(capsys):
    operators.main([])
    assert f"\n  {importlib.import_module('mmcv._ext').__file__}\n" in capsys.readouterr().out


def test_the_written_file_serves_scripts_that_know_nothing_of_this_package(installed):
    """As MMDetection's own ``tools/test.py``, which imports ``mmdet.models`` before it reads a config."""
    root = installed(None)
    wrote = "from backbones.mm import operators; operators.main(['--install-into-mmcv'])"
    assert output(wrote, "auto", root) == "  BACKBONES_MM_OPERATORS=auto"
    assert (root / "mmcv/_ext.py").exists()
    for choice in ("auto", "torch"):
        code = "import mmcv._ext as e, backbones.mm; print(e.nms.__module__, e.roi_align_rotated_forward.__name__)"
        assert output(code, choice, root) == "backbones.mm.operators.boxes missing"
