"""OpenMMLab's libraries beside today's packages."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.mm


def test_mmpretrain_imports_beside_transformers():
    code = "import backbones.mm, transformers, mmpretrain.models as m; print(m.ImageClassifier.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "ImageClassifier", result.stderr
