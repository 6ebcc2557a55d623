"""Reading checkpoint files without running them."""

import argparse
import collections
import functools
import importlib
import io
import operator
import os
import pathlib
import pickle
import pickletools
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import backbones
from backbones.weights import read_checkpoint

LEGACY = {"_use_new_zipfile_serialization": False}
FORMATS = pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])


class CfgNode(dict):
    """Like yacs': a dict subclass with attributes."""

    def __init__(self, **options):
        super().__init__(options)
        self.frozen = True


class History:
    """Like MMEngine's: refers to its own methods."""

    def __init__(self):
        self.statistics = {"mean": History.mean}
        self.values = np.arange(5.0)

    def mean(self):
        return self.values.mean()


class Plain:
    def __reduce_ex__(self, protocol):
        return object.__reduce_ex__(self, 0)  # through copyreg


@FORMATS
def test_training_objects_are_replaced_and_tensors_are_real(tmp_path, options):
    weight = torch.nn.Parameter(torch.randn(3, 4))
    weight.note = "an attribute of its own"
    base = torch.randn(6, 5)
    content = {
        "model": collections.OrderedDict(w=weight, half=torch.randn(5).half(), flag=torch.tensor([True, False])),
        "views": [base.t(), base[2:4], base[:, 1]],
        "scalar": torch.tensor(3),
        "nothing": torch.zeros(0, 4),
        "brain": torch.randn(4).bfloat16(),
        "args": argparse.Namespace(lr=0.1, folder=pathlib.Path("/data")),
        "config": CfgNode(MODEL=CfgNode(DEPTHS=[2, 2])),
        "history": History(),
        "plain": Plain(),
        "best": np.float64(81.5),
        "big_endian": np.array(7, dtype=">i4")[()],
        "array": np.arange(4),
        "state": collections.defaultdict(list, a=[1]),
        "device": torch.device("cuda:0"),
        "dtype": torch.float16,
        "kinds": ({1, 2}, frozenset("ab"), 1 + 2j, b"bytes", bytearray(b"more"), None, 2**80, (1, 2, 3, 4)),
        "size": weight.shape,
    }
    path = tmp_path / "a.pth"
    torch.save(content, path, **options)
    read = read_checkpoint(path)
    for key, value in content["model"].items():
        assert torch.equal(read["model"][key], value) and read["model"][key].dtype == value.dtype
    assert all(torch.equal(a, b) for a, b in zip(read["views"], content["views"]))
    assert read["views"][0].untyped_storage().data_ptr() == read["views"][1].untyped_storage().data_ptr()
    assert read["scalar"] == 3 and read["nothing"].shape == (0, 4)
    assert torch.equal(read["brain"], content["brain"])
    assert type(read["args"]).__name__ == "Namespace" and read["args"]["lr"] == 0.1
    assert not isinstance(read["args"], argparse.Namespace)
    assert read["config"]["MODEL"]["DEPTHS"] == [2, 2] and not isinstance(read["config"], CfgNode)
    assert set(read["history"]) == {"statistics", "values"} and not isinstance(read["history"], History)
    assert read["best"] == 81.5 and type(read["best"]) is float and read["big_endian"] == 7
    assert read["state"] == {"a": [1]} and read["dtype"] is torch.float16
    assert read["kinds"] == content["kinds"] and tuple(read["size"]) == (3, 4)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol, options):
    content = {"w": torch.arange(6.0), "args": argparse.Namespace(a=1), "step": np.int64(5)}
    torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol, **options)
    read = read_checkpoint(tmp_path / "a.pth")
    assert torch.equal(read["w"], content["w"]) and read["args"] == {"a": 1} and read["step"] == 5


def test_plain_checkpoint_is_what_torch_reads(tmp_path):
    content = {"model": backbones.create_model("test_van").state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    for key, value in torch.load(tmp_path / "a.pth", weights_only=True)["model"].items():
        assert torch.equal(read["model"][key], value)


def test_safetensors(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["w"], torch.ones(2))


# Malicious files ------------------------------------------------------------------------------------------------------


class Call:
    """Makes a pickle that calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Sneaky:
    """Calls through the state and item channels of __reduce_ex__."""

    def __init__(self, *call):
        self.call = call

    def __reduce_ex__(self, protocol):
        function, *args = self.call
        return dict, (), None, iter([Call(function, *args)]), None


ATTACKS = {
    "os.system": lambda trace: Call(os.system, f"touch {trace}"),
    "eval": lambda trace: Call(eval, f"open({trace!r}, 'w')"),
    "exec": lambda trace: Call(exec, f"open({trace!r}, 'w')"),
    "open": lambda trace: Call(open, trace, "w"),
    "popen": lambda trace: Call(subprocess.Popen, ["touch", trace]),
    "importlib": lambda trace: Call(importlib.import_module, "antigravity"),
    "import and getattr": lambda trace: Call(getattr, Call(__import__, "os"), "system"),
    "partial": lambda trace: Call(functools.partial(os.system, f"touch {trace}")),
    "reduce": lambda trace: Call(functools.reduce, getattr, ["system"], os),
    "map": lambda trace: Call(list, Call(map, os.system, [f"touch {trace}"])),
    "methodcaller": lambda trace: Call(operator.methodcaller("touch"), pathlib.Path(trace)),
    "attribute of a harmless class": lambda trace: Call(pathlib.Path.touch, pathlib.Path(trace)),
    "nested pickle": lambda trace: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {trace}"))),
    "torch.load": lambda trace: Call(torch.load, trace),
    "torch.hub": lambda trace: Call(torch.hub.download_url_to_file, f"file://{__file__}", trace),
    "numpy": lambda trace: Call(np.save, trace, [1]),
    "__reduce_ex__": lambda trace: Sneaky(os.system, f"touch {trace}"),
    "inside a namespace": lambda trace: argparse.Namespace(a=[{"b": Call(os.system, f"touch {trace}")}]),
    "as a key": lambda trace: {(1, Call(os.system, f"touch {trace}")): 2},
}


def _dump(value) -> bytes:
    """Pickle what the standard pickler would refuse (modules)."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj):
            if obj is os:
                return __import__, ("os",)
            return NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def _write(kind: str, payload: bytes, path: pathlib.Path) -> None:
    """A file of ``torch.save`` in which ``payload`` stands where the content should."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
            archive.writestr("archive/version", "3")
    elif kind == "legacy":
        head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + payload + pickle.dumps([], 2))
    elif kind == "bare":
        path.write_bytes(payload)
    else:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                info = tarfile.TarInfo(name)
                info.size = len(payload)
                archive.addfile(info, io.BytesIO(payload))


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "tar"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_and_leave_no_trace(tmp_path, attack, kind):
    trace = tmp_path / "trace"
    _write(kind, _dump({"state_dict": {}, "x": ATTACKS[attack](str(trace))}), tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth"):
        read_checkpoint(tmp_path / "evil.pth")
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("attack", ["os.system", "nested pickle", "eval"])
def test_the_attacks_work_on_a_careless_reader(tmp_path, attack):
    pickle.loads(_dump(ATTACKS[attack](str(tmp_path / "trace"))))
    assert (tmp_path / "trace").exists()


def test_the_message_says_what_the_file_would_do(tmp_path):
    torch.save({"x": Call(os.system, "true")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"not safe to load: it would use (posix|nt)\.system"):
        read_checkpoint(tmp_path / "evil.pth")


OPCODES = {
    "functions of the reader stay as they are": b"ctorch._utils\n_rebuild_tensor\n(N}X\x04\x00\x00\x00callK\x01s\x86b.",
    "classes of the reader stay as they are": b"cyacs.config\nCfgNode\n}X\x01\x00\x00\x00aK\x01sb.",
    "builtin classes stay as they are": b"ccollections\nOrderedDict\n(N}X\x01\x00\x00\x00aK\x01s\x86b.",
    "a function is no class": b"cos\nsystem\n)\x81.",
    "dotted names are not followed": b"\x80\x04\x8c\x08argparse\x8c\x09os.system\x93\x8c\x04true\x85R.",
    "extension registry": b"\x82\x01.",
    "python 2's names": b"c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
    "old instances": b"(X\x04\x00\x00\x00trueios\nsystem\n.",
    "a codec with side effects": b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "persistent names": b"X\x01\x00\x00\x00aQ.",
    "a file of a huge number of objects": b"K\x01r\xff\xff\xff\x7f.",
    "a huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
}


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("name", OPCODES)
def test_crafted_opcodes_are_refused(tmp_path, name, kind):
    _write(kind, OPCODES[name], tmp_path / "evil.pth")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="evil.pth"):
            read_checkpoint(tmp_path / "evil.pth")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_the_reader_still_works_after_attacks(tmp_path):
    """No attack has left a changed class or function behind."""
    for opcodes in OPCODES.values():
        _write("legacy", opcodes, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match="evil.pth"):
            read_checkpoint(tmp_path / "evil.pth")
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(a=1)}, tmp_path / "a.pth", **LEGACY)
    read = read_checkpoint(tmp_path / "a.pth")
    assert torch.equal(read["w"], torch.ones(2)) and read["args"] == {"a": 1}


# Sizes ----------------------------------------------------------------------------------------------------------------


def _tensor_pickle(numel, size, stride, offset=0) -> bytes:
    """The content pickle of one float32 tensor with the given claims."""
    storage = collections.namedtuple("Storage", "numel")(numel)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", obj.numel) if obj is storage else None

    buffer = io.BytesIO()
    rebuild = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, collections.OrderedDict())
    Pickler(buffer, 2).dump({"w": rebuild})
    return buffer.getvalue()


def _write_tensor(kind: str, payload: bytes, data: bytes, path: pathlib.Path) -> None:
    _write(kind, payload, path)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/data/0", data)
    else:
        head = path.read_bytes().removesuffix(pickle.dumps([], 2))
        path.write_bytes(head + pickle.dumps(["0"], 2) + struct.pack("<q", len(data) // 4) + data)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset"),
    [
        (10**12, (10**12,), (1,), 0),  # more than the file has
        (4, (10**12,), (1,), 0),  # beyond the storage
        (4, (10**12,), (0,), 0),  # repeats what is stored
        (4, (10**6, 10**6), (0, 0), 0),
        (4, (4,), (1,), 2),  # begins too late
        (4, (-4,), (1,), 0),
        (4, (2,), (-1,), 1),
        (4, (4.0,), (1,), 0),
    ],
)
def test_absurd_tensors_are_refused_before_memory_is_taken(tmp_path, kind, numel, size, stride, offset):
    _write_tensor(kind, _tensor_pickle(numel, size, stride, offset), b"\0" * 16, tmp_path / "huge.pth")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="huge.pth"):
            read_checkpoint(tmp_path / "huge.pth")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_the_same_tensor_with_true_claims_loads(tmp_path, kind):
    _write_tensor(kind, _tensor_pickle(4, (2, 2), (2, 1)), struct.pack("<4f", 1, 2, 3, 4), tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["w"].tolist() == [[1, 2], [3, 4]]


def test_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(64):
                entry.write(b"\0" * 2**20)
    assert (tmp_path / "bomb.pth").stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="an archive of 67108[0-9]* bytes in a file of"):
            read_checkpoint(tmp_path / "bomb.pth")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_archive_with_two_contents_is_refused(tmp_path):
    """Two readers might take different ones."""
    with zipfile.ZipFile(tmp_path / "two.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
    with pytest.raises(ValueError, match="two.pth"):
        read_checkpoint(tmp_path / "two.pth")


# Damaged files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.95])
@FORMATS
def test_truncated_file_is_named(tmp_path, share, options):
    path = tmp_path / "cut.pth"
    torch.save({"w": torch.randn(100, 100)}, path, **options)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="cut.pth .* truncated"):
        read_checkpoint(path)


def test_changed_bytes_are_found(tmp_path):
    """PyTorch itself reads such a file."""
    path = tmp_path / "flip.pth"
    torch.save({"w": torch.zeros(100, 100)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["w"].any()
    with pytest.raises(ValueError, match=r"flip.pth .*data/0 in it is damaged; fetch it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"just some text", "begins with b'just som'"),
        (b"PK\x03\x04 not an archive", "truncated"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, content, reason):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.pth .*{reason}"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [[1, 2], torch.ones(2), torch.nn.Linear(2, 2)], ids=["list", "tensor", "module"])
def test_no_dictionary_of_weights(tmp_path, value):
    torch.save(value, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds a (list|Tensor|Linear), not a dictionary"):
        read_checkpoint(tmp_path / "other.pth")


def test_no_file():
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        read_checkpoint("absent.pth")


def test_torchscript_is_named(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(ValueError, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")


def test_opcode_table_is_current():
    """What the reader checks before unpickling covers every opcode that numbers an object explicitly."""
    explicit = {op.name for op in pickletools.opcodes if op.name.endswith("PUT")}
    assert explicit == {"PUT", "BINPUT", "LONG_BINPUT"}
