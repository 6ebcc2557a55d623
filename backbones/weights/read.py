"""Reading checkpoint files without running anything stored in them."""

import os
import pickle
from types import SimpleNamespace
from typing import Any

import torch
from timm.models._hub import download_cached_file

_TENSOR_PARTS = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.nn.parameter", "Parameter"),
}


class _Ignored(dict):
    """Stands for an object of a training framework (a config, a logger's history) stored beside the weights."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> "_Ignored":
        return self

    def __setstate__(self, state: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TENSOR_PARTS or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        return _Ignored


_pickle = SimpleNamespace(
    Unpickler=_Unpickler, load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(), __name__="tensors_only"
)


def read_checkpoint(source: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a checkpoint of any framework, on the CPU; only tensors and plain data in it are real.

    ``torch.load(weights_only=True)`` refuses files that hold anything else, as most training checkpoints do; here such
    objects become empty dictionaries. Nothing in the file is executed.

    Args:
        source: Path or URL of a ``torch.save`` or ``.safetensors`` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is truncated or no checkpoint.
    """
    path = download_cached_file(str(source)) if "://" in str(source) else source
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {str(path)!r}")
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        checkpoint = torch.load(path, map_location="cpu", pickle_module=_pickle, weights_only=False)
    except Exception as error:  # a damaged file fails anywhere: in the archive, in the pickle, in a tensor
        size = os.path.getsize(path)
        raise ValueError(f"{source} ({size} bytes) is truncated or no checkpoint: fetch it again ({error})") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{source} holds a {type(checkpoint).__name__}, not a dictionary of weights")
    return checkpoint
