"""Images of all of tests/deploy."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.export import ExportedProgram


@pytest.fixture
def no_decomposing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export fail whose operators are not translated as they are."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("operators are decomposed, which takes most of an export's time")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refuse)


@pytest.fixture(scope="session")
def crops() -> Tensor:
    """Parts of two photographs: (16, 3, 64, 96), normalised."""
    photographs = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2) / 255
    parts = [photographs[i % 2, :, 50 * (i // 4) :, 100 * (i % 4) :][None, :, :150, :225] for i in range(16)]
    return nn.functional.interpolate((torch.cat(parts) - 0.45) / 0.225, (64, 96), mode="bilinear", antialias=True)
