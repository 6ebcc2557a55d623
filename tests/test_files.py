"""Files that appear when they are whole."""

import os
from pathlib import Path

import pytest

from backbones.files import whole_file


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "notes.txt"
    with whole_file(path) as partial:
        partial.write_text("all of it")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "all of it" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=["full disk", "interrupted"])
def test_what_goes_wrong_leaves_the_file_as_it_was(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("before")
    with pytest.raises(type(error)), whole_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]
