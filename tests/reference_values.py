"""Official weights and inputs rebuilt from the rules in ``tests/reference/README.md``, and the check of its values."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "reference"


def load_reference(name: str) -> dict[str, Any]:
    """One recorded file, e.g. ``van_b0``."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def _value(key: str, shape: list[int], dtype: str) -> Tensor:
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    if key.endswith(("unfold.weights", "fold.weights")):  # identity kernels: tap i passes neighbour i on
        return torch.eye(shape[0]).reshape(shape)
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("rpb"):
        value = n
    elif key.endswith("cpb_fc2.weight"):  # TransNeXt's position network
        value = 2 * n / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(n)
    elif key.endswith("running_mean"):
        value = 0.1 * n
    elif "gamma" in key or "layer_scale" in key:
        value = 0.5 + 0.1 * n
    elif len(shape) == 3 and shape[0] == 1:
        value = 0.2 * n
    elif len(shape) >= 2:
        value = 0.5 * n / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("weight"):
        value = 1 + 0.1 * n
    else:
        value = 0.1 * n
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def official_state_dict(reference: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint in the official layout."""
    return {key: _value(key, shape, dtype) for key, (shape, dtype) in reference["state_dict"].items()}


def reference_input(reference: dict[str, Any]) -> Tensor:
    """The recorded input."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal(reference["input_shape"]).astype(np.float32))


def assert_matches(output: Tensor, recorded: dict[str, Any], atol: float = 1e-4, rtol: float = 1e-3) -> None:
    """Compare an output, in the recorded layout, with the recorded samples, mean and standard deviation."""
    assert list(output.shape) == recorded["shape"]
    samples = output.flatten(1)[:, recorded["index"]]
    torch.testing.assert_close(samples, torch.tensor(recorded["samples"]), atol=atol, rtol=rtol)
    torch.testing.assert_close(output.mean(), torch.tensor(recorded["mean"]), atol=atol, rtol=rtol)
    torch.testing.assert_close(output.std(), torch.tensor(recorded["std"]), atol=max(atol, 1e-4), rtol=rtol)
