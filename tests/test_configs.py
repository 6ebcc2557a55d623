"""Shipped configs are found by name."""

from pathlib import Path

import pytest

from backbones.configs import config_folder, find_config

CONFIGS = sorted(path for path in config_folder().glob("*/*/*.py") if path.parts[-3] != "_base_")


def test_every_config_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(CONFIGS) > 30
    for path in CONFIGS:
        family, task = path.parts[-3:-1]
        for name in (path.stem, path.name, f"{task}/{path.stem}", f"configs/{family}/{task}/{path.name}"):
            assert find_config(name) == path


def test_a_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(CONFIGS[0].name).touch()
    assert find_config(CONFIGS[0].name) == Path(CONFIGS[0].name)
    assert find_config(CONFIGS[0].stem) == CONFIGS[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("van-b0_8xb128_in1", "no config 'van-b0_8xb128_in1', neither .*near names: van-b0_8xb128_in1k"),
        ("other/classification/van-b0_8xb128_in1k.py", "near names: van-b0_8xb128_in1k"),
        ("classification_digits", "no config"),  # a part of others
        ("", "the shipped ones are in .*configs"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_config(name)
