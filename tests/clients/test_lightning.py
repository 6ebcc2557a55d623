"""Lightning: a trainer takes the steps of a plain loop, saves a checkpoint, and the package reads it."""

from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from backbones.weights import convert_state_dict, load_checkpoint
from tests.every_module import close, lively
from tests.test_models import TINY

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("fast_kernels")]


class Classifier(lightning.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def data() -> DataLoader:
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, torch.arange(4)), batch_size=2)


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::lightning.fabric.utilities.rank_zero.LightningDeprecationWarning"
)
@pytest.mark.parametrize("name", TINY)
def test_training(name: str, tmp_path: Path) -> None:
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_model_summary": False}
    trainer = lightning.Trainer(default_root_dir=tmp_path, enable_progress_bar=False, **options)
    module = Classifier(lively(name))
    trainer.fit(module, data())
    expected = Classifier(lively(name).train())
    optimizer = expected.configure_optimizers()
    for batch in data():
        optimizer.zero_grad()
        expected.training_step(batch).backward()
        optimizer.step()
    for key, p in module.model.state_dict().items():
        close(p, expected.model.state_dict()[key], key)
    (path,) = tmp_path.rglob("*.ckpt")
    again = lively(name)
    again.load_state_dict(convert_state_dict(load_checkpoint(path), again))
    assert all(torch.equal(p, module.model.state_dict()[key]) for key, p in again.state_dict().items())
