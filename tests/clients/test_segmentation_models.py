"""segmentation_models_pytorch: any pyramid is an encoder by the name ``tu-<model>``."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from tests.test_models import TINY, images

pytestmark = pytest.mark.clients

# Decoders want a map of each stride from 4 to 32.
PYRAMIDS = [n for n in TINY if len(set(timm.create_model(n, features_only=True).feature_info.reduction())) == 4]
DECODERS = [smp.Unet, smp.FPN, smp.UPerNet, smp.Segformer]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.__name__)
@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_step_of_training(name: str, decoder: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = decoder(f"tu-{name}", encoder_weights=None, classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    target = torch.arange(2 * 64 * 96).view(2, 64, 96) % 3

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(images()), target)

    before = loss()
    before.backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    optimizer.step()
    torch.manual_seed(0)
    assert loss() != before


@pytest.mark.parametrize("name", PYRAMIDS)
def test_maps_are_the_models(name: str) -> None:
    encoder = smp.Unet(f"tu-{name}", encoder_weights=None).encoder.eval()
    model = timm.create_model(name, features_only=True).eval()
    model.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        image, empty, *maps = encoder(images())
        expected = model(images())
    assert torch.equal(image, images()) and empty.shape[1] == 0
    for found, y in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, y)
