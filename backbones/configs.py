"""The configs that come with the package, found by name."""

import difflib
import os
from pathlib import Path

__all__ = ["config_folder", "find_config"]

_PACKAGE = Path(__file__).parent


def config_folder() -> Path:
    """Where the shipped configs are: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / ".mim" / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str | os.PathLike) -> Path:
    """The file of a config.

    Args:
        name: a file, or the name of a shipped config, with or without its folders and ending: ``van-b0_8xb128_in1k``.

    Raises:
        FileNotFoundError: If there is neither; near names are suggested.
    """
    if os.path.isfile(name):
        return Path(name)
    shipped = [path for path in sorted(config_folder().glob("*/*/*.py")) if path.parts[-3] != "_base_"]
    wanted = "/" + Path(name).as_posix().removesuffix(".py") + ".py"
    if found := [path for path in shipped if path.as_posix().endswith(wanted)]:
        return found[0]
    near = difflib.get_close_matches(Path(wanted).stem, [path.stem for path in shipped], 3)
    hint = f"near names: {', '.join(near)}" if near else f"the shipped ones are in {config_folder()}"
    raise FileNotFoundError(f"no config {str(name)!r}, neither a file nor one that comes with the package; {hint}")
