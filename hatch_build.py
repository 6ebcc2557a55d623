"""Adds to the wheel what OpenMMLab's mim reads to find the folder of a package that has another name: `backbones`."""

import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TopLevelHook(BuildHookInterface):
    """Writes `top_level.txt`, which setuptools writes and hatchling does not, into the wheel's metadata."""

    def initialize(self, version: str, build_data: dict) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "top_level.txt")
        path.write_text("backbones\n")
        build_data["force_include"][str(path)] = f"{self.build_config.builder.project_id}.dist-info/top_level.txt"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        self.folder.cleanup()
