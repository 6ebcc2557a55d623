"""timmx builds a model by its name and exports it; what it wrote gives the model's outputs."""

from pathlib import Path

import pytest
import timm
import timmx
import torch

from backbones.deploy.export import difference
from backbones.deploy.runtimes import load_export
from tests.test_models import TINY

pytestmark = [pytest.mark.clients, pytest.mark.slow]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", TINY)
def test_timmx(name: str, tmp_path: Path) -> None:
    """A seed before each of the two calls gives the same weights."""
    torch.manual_seed(0)
    path = timmx.export_model("torch-export", name, num_classes=7, output=tmp_path / "model.pt2")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert difference([model(x)], load_export(path)(x)) < model.export_tolerance
