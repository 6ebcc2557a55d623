"""Reading checkpoint files without running anything stored in them.

A file of ``torch.save`` is a pickle, a program for a small machine that may call any function, with tensors beside it.
Here the program runs twice. The first run builds no tensor: it refuses what no checkpoint needs, and sizes that the
file cannot hold. What passed is read by ``torch.load(weights_only=True)``, or, where training objects (arguments,
configs, loggers) lie beside the weights, by a second run with these replaced by inert placeholders.
"""

import _compat_pickle
import io
import math
import mmap
import os
import pickle
import pickletools
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format that torch.save wrote before version 1.6
_SMALL = 2**22  # elements that a tensor may repeat (stride 0) beyond those that are stored

_DTYPES = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# Classes of the standard library that checkpoints do hold; they become placeholders like any other class.
_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w*Path|collections\.(Counter|deque)|uuid\.UUID"
    r"|builtins\.(object|type|int|float|str|bool|bytes|slice|range|\w+Error|\w*Exception)"
    r"|typing\.[A-Z]\w*|datetime\.\w+|decimal\.Decimal|enum\.\w+|logging\.[A-Z]\w*|time\.struct_time"
)
# Functions of other packages that checkpoints do call; the result is a placeholder.
_INERT = re.compile(r"numpy\.(_?core\.multiarray\._reconstruct|random\._pickle\.\w+)")


class Placeholder(dict):
    """Stands for an object that is neither tensor nor plain container: its attributes or items, without its class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, not loaded>"


class _Refused(Exception):
    pass


class _Function:
    """What a pickle may call. It takes no attributes: a pickle could set those of a plain function."""

    __slots__ = ("name", "call")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused(f"it would change {self.name}")


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int
    start: int  # elements of the stored data before the first


class _NumpyType:
    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _numpy_scalar(dtype: Any, raw: Any = b"") -> Any:
    """The number in a numpy scalar, as Python's."""
    import numpy as np

    if not isinstance(dtype, _NumpyType) or not re.fullmatch(r"[biufc]\d{1,2}", dtype.code):
        return Placeholder()
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, np.dtype(dtype.order + dtype.code), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding.lower() not in ("latin1", "latin-1", "ascii", "utf-8", "utf8"):
        raise _Refused(f"it uses the codec {encoding!r}")
    return text.encode(encoding)


def _bytearray(data: Any = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(data if isinstance(data, bytes) else _encode(data, encoding))


class _Reader(pickle.Unpickler):
    """Builds tensors, numbers, strings and plain containers; whatever else a pickle names is replaced or refused.

    Args:
        file: The pickle.
        load: Elements of a storage, one-dimensional, or None in the run that only checks.
    """

    def __init__(self, file: Any, load: Callable[[_Storage], Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self.load_storage = load
        self.value: Any = None
        self.storages: dict[str, int] = {}  # bytes that each must have
        self.types: dict[str, type[Placeholder]] = {}
        functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": self.typed_tensor,
            "torch.Size": lambda sizes=(): tuple(sizes),
            "torch.device": lambda *args: ":".join(str(arg) for arg in args),
            "numpy.dtype": _NumpyType,
            "numpy.core.multiarray.scalar": _numpy_scalar,
            "numpy._core.multiarray.scalar": _numpy_scalar,
            "collections.defaultdict": lambda *_: {},
            "copyreg._reconstructor": lambda cls, *_: cls(),
            "builtins.getattr": self.attribute,
            "builtins.bytearray": _bytearray,
            "_codecs.encode": _encode,
        }
        self.known: dict[str, Any] = {name: _Function(name, call) for name, call in functions.items()}
        self.known["collections.OrderedDict"] = OrderedDict
        self.known |= {f"builtins.{kind.__name__}": kind for kind in (set, frozenset, list, tuple, dict, complex)}

    def find_class(self, module: str, name: str) -> Any:
        # Python 2's names, which protocol 2 writes
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if full in self.known:
            return self.known[full]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module.split(".")[0] in sys.stdlib_module_names and not _HARMLESS.fullmatch(full):
            raise _Refused(f"it would use {full}")
        last = name.rpartition(".")[2]
        if last.islower() and not _HARMLESS.fullmatch(full):  # a function, by its name
            return _Function(full, self.inert if _INERT.fullmatch(full) else lambda *_: self.refuse(full))
        return self.types.setdefault(full, type(last, (Placeholder,), {"__module__": module}))

    @staticmethod
    def refuse(name: str) -> None:
        raise _Refused(f"it would call {name}")

    @staticmethod
    def inert(*_: Any) -> Placeholder:
        return Placeholder()

    def attribute(self, owner: Any, name: str) -> _Function:
        """``getattr``, by which training code refers to methods of its classes; they can be named, not called."""
        if not (isinstance(owner, type) and issubclass(owner, Placeholder)):
            raise _Refused(f"it would take {name!r} of {owner!r}"[:200])
        return _Function(f"{owner.__name__}.{name}", lambda *_: self.refuse(f"{owner.__name__}.{name}"))

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class with its source text
            return pid[1]
        kind, dtype, key, _, numel, *view = pid
        start, length = view[0][1:3] if view and view[0] else (0, numel)
        if (
            kind != "storage"
            or dtype not in _STORAGES.values()
            or not all(type(n) is int and n >= 0 for n in (numel, start, length))
        ):
            raise _Refused(f"it names a storage {pid!r}"[:200])
        if start + length > numel:
            raise _Refused(f"it takes elements {start} to {start + length} of a storage of {numel}")
        self.storages[str(key)] = max(numel * dtype.itemsize, self.storages.get(str(key), 0))
        return _Storage(str(key), dtype, length, start)

    def tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor | None:
        if not isinstance(storage, _Storage) or len(size) != len(stride):
            raise _Refused("it holds a tensor without a storage")
        if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise _Refused(f"it holds a tensor of size {size!r}"[:200])
        numel = math.prod(size)
        end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1 if numel else 0
        if end > storage.numel or numel > max(storage.numel, _SMALL):
            raise _Refused(f"it holds a tensor of size {list(size)} with {storage.numel} stored elements")
        if self.load_storage is None:
            return None
        return self.load_storage(storage).as_strided(tuple(size), tuple(stride), storage.start + offset)

    def typed_tensor(self, rebuild: Any, _: Any, args: Any, *__: Any) -> Any:
        """A tensor with attributes of its own; these are dropped."""
        if not isinstance(rebuild, _Function):
            raise _Refused(f"it would call {rebuild!r}"[:200])
        return rebuild(*args)


def _check_opcodes(file: Any) -> None:
    """Refuse a pickle whose numbering of objects would fill the memory; leaves the file's position where it was."""
    start = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise _Refused(f"it would number an object {argument}")
    file.seek(start)


def _loader(read: Callable[[str], bytes]) -> Callable[[_Storage], Tensor]:
    """Elements of storages whose bytes ``read`` gives; each is read once, so that tied tensors stay tied."""
    loaded: dict[str, Tensor] = {}

    def load(storage: _Storage) -> Tensor:
        if storage.key not in loaded:
            data = bytearray(read(storage.key))
            loaded[storage.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0)
        return loaded[storage.key].view(storage.dtype) if storage.numel else torch.empty(0, dtype=storage.dtype)

    return load


def _read_zip(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if len(roots) != 1 or roots[0] + "constants.pkl" in entries:
            raise _Refused("it is an archive of something else (TorchScript, an exported program?)")
        total = sum(info.file_size for info in archive.infolist())
        if total > os.path.getsize(path) or len(entries) != len(archive.infolist()):
            raise _Refused(f"it is an archive of {total} bytes in a file of {os.path.getsize(path)}")
        if roots[0] + "byteorder" in entries and archive.read(roots[0] + "byteorder") != b"little":
            raise _Refused("it was written on a big-endian machine")
        program = archive.read(roots[0] + "data.pkl")
        _check_opcodes(io.BytesIO(program))
        check = _Reader(io.BytesIO(program))
        check.load()
        for key, size in check.storages.items():
            if entries[f"{roots[0]}data/{key}"].file_size < size:
                raise _Refused(f"storage {key} is shorter than its {size} bytes")

        if damaged := archive.testzip():  # PyTorch itself does not compare check sums
            raise _Refused(f"{damaged} in it is damaged")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return _Reader(io.BytesIO(program), _loader(lambda key: archive.read(f"{roots[0]}data/{key}"))).load()


def _read_legacy(path: str) -> Any:
    """Five pickles one after the other (magic number, protocol, system, content, storage keys), then the storages."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:

        def unpickle() -> _Reader:
            _check_opcodes(data)
            reader = _Reader(data)
            reader.value = reader.load()
            return reader

        if unpickle().value != _MAGIC:
            raise _Refused("it is a pickle, but not one of torch.save")
        protocol, system = unpickle().value, unpickle().value
        if protocol != _PROTOCOL or not system.get("little_endian"):
            raise _Refused(f"its protocol is {protocol!r}, its system {system!r}"[:200])
        content = data.tell()
        sizes = unpickle().storages

        places: dict[str, slice] = {}
        keys = [str(key) for key in unpickle().value]
        if set(keys) != sizes.keys():
            raise _Refused("its storages are not those of its tensors")
        position = data.tell()
        for key in keys:
            start, position = position + 8, position + 8 + sizes[key]  # the number of elements comes first
            if position > len(data):
                raise _Refused(f"it ends in storage {key}, which has {sizes[key]} bytes")
            places[key] = slice(start, position)

        data.seek(content)
        return _Reader(data, _loader(lambda key: data[places[key]])).load()


def _read(path: str) -> Any:
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise _Refused("it is empty")
    if head[8:9] == b"{" or path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    if head.lstrip().startswith(b"<"):
        raise _Refused("it is a web page: open the address in a browser to see what the server says")
    if head.startswith(b"version https://git-lfs"):
        raise _Refused("it is a pointer of Git LFS, not the file itself")
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head[257:262] == b"ustar":
        raise _Refused("it is a tar archive, which PyTorch before 0.1.2 wrote; no published model is that old")
    if head.startswith(b"\x80"):
        return _read_legacy(path)
    raise _Refused(f"it begins with {head[:8]!r}")


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a checkpoint of any framework, on the CPU; only tensors and plain data in it are real.

    Files hold argument namespaces, configs, loggers and optimizers too; such objects become :class:`Placeholder`, numpy
    scalars become Python numbers. Nothing in the file is executed, and sizes are checked before memory is taken.

    Args:
        path: Of a ``torch.save`` (also of versions before 1.6) or ``.safetensors`` file. Addresses and pretrained tags
            are for :func:`backbones.weights.load_checkpoint`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is truncated, no checkpoint, or would run code.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {os.fspath(path)!r}: no such file")
    try:
        checkpoint = _read(os.fspath(path))
    except Exception as error:  # a damaged file fails anywhere: in the archive, in the pickle, in a tensor
        size = os.path.getsize(path)
        reason = str(error) or type(error).__name__
        if isinstance(error, _Refused) and "would" in reason:
            raise ValueError(f"{path} is not safe to load: {reason}, which no checkpoint needs") from error
        raise ValueError(f"{path} ({size} bytes) is truncated or no checkpoint: {reason}; fetch it again") from error
    if not isinstance(checkpoint, dict) or isinstance(checkpoint, Placeholder):
        kind = type(checkpoint).__name__
        raise ValueError(f"{path} holds a {kind}, not a dictionary of weights: save its state_dict()")
    return checkpoint
