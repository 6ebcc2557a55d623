"""Runs the model tests of the installed timm, unmodified, on this package's models.

    python tests/timm_suite/run.py all                 # every registered classifier
    python tests/timm_suite/run.py ci                  # the tiny and the smallest variant of each family
    python tests/timm_suite/run.py van_b0 -- -k script # single models; what follows "--" goes to pytest

The tests ship in timm's source distribution only; it is downloaded once into a cache outside the clone.
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from itertools import groupby
from pathlib import Path

import timm
import torch

import backbones

HERE = Path(__file__).parent


def fetch_tests() -> Path:
    """Path of ``tests/test_models.py`` as shipped with the installed timm version, downloaded if it is not cached."""
    version = importlib.metadata.version("timm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efficient-backbones" / "timm" / version
    tests = cache / "test_models.py"
    if not tests.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--no-binary", "timm", "--dest", folder, f"timm=={version}"], check=True)
            with tarfile.open(next(Path(folder).glob("timm-*.tar.gz"))) as archive:
                content = archive.extractfile(f"timm-{version}/tests/test_models.py").read()
            (Path(folder) / "test_models.py").write_bytes(content)
            (Path(folder) / "test_models.py").replace(tests)
    return tests


def classifiers() -> list[str]:
    """What timm's tests are made for: an image in, logits out."""
    return backbones.list_models(task="classification")


def ci_models() -> list[str]:
    """Of each family the tiny test variant and the one with the fewest parameters besides."""

    def family(name: str) -> str:
        return timm.models.model_entrypoint(name).__module__

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    chosen = []
    for _, names in groupby(sorted(classifiers(), key=family), key=family):
        names = list(names)
        published = [name for name in names if not name.startswith("test_")]
        chosen += [name for name in names if name.startswith("test_")] + [min(published, key=parameters)]
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="'all', 'ci' or names")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:split])
    pytest_args = sys.argv[split + 1 :]
    models = {"all": classifiers, "ci": ci_models}.get(args.models[0], lambda: args.models)()
    unknown = [name for name in models if not timm.is_model(name)]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; known: {', '.join(classifiers())}")
    tests = fetch_tests()
    command = [sys.executable, "-m", "pytest", str(tests), "-p", "timm_suite_plugin", "--zoo-models", ",".join(models)]
    # Nothing of this project's pytest settings applies to timm's file.
    command += ["-c", os.devnull, "--rootdir", str(tests.parent), "--import-mode=importlib", "-p", "no:cacheprovider"]
    command += ["-q", *pytest_args]
    search_path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.call(command, env={**os.environ, "PYTHONPATH": search_path})


if __name__ == "__main__":
    sys.exit(main())
