"""Reading checkpoint files without running them."""

import pathlib

import pytest
import torch
from safetensors.torch import save_file

from backbones.weights import read_checkpoint


class Bomb:
    """Creates a file when a careless reader unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


class Node(dict):
    """Stands for the configuration objects that training code stores."""


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_and_nothing_runs(tmp_path, zipped):
    weight = torch.nn.Parameter(torch.randn(3, 4))
    half = torch.randn(5).half()
    node = Node(a=1)
    checkpoint = {"model": {"w": weight, "h": half}, "epoch": 3, "config": node, "bomb": Bomb(tmp_path / "boom")}
    path = tmp_path / "a.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert torch.equal(read["model"]["w"], weight) and torch.equal(read["model"]["h"], half)
    assert read["model"]["h"].dtype == torch.float16
    assert read["epoch"] == 3
    assert not (tmp_path / "boom").exists()


def test_safetensors(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["w"], torch.ones(2))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file_is_named(tmp_path, share, zipped):
    path = tmp_path / "cut.pth"
    torch.save({"w": torch.randn(100, 100)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="cut.pth .* truncated"):
        read_checkpoint(path)


def test_no_dictionary_and_no_file(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        read_checkpoint(tmp_path / "absent.pth")
