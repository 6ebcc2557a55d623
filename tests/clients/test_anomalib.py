"""anomalib: PatchCore remembers the maps of two levels of a model and tells what is unlike them."""

from typing import Any

import pytest
import timm
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

from tests.test_models import TINY

pytestmark = pytest.mark.clients


def patchcore(name: str, **kwargs: Any) -> PatchcoreModel:
    """On two levels; anomalib takes whatever has "vit" in its name for an isotropic ViT, so it gets another name."""
    alias = name.replace("vit", "v1t")
    if not timm.is_model(alias):
        entry = lambda pretrained=False, **kwargs: timm.create_model(name, pretrained=pretrained, **kwargs)  # noqa: E731
        entry.__name__, entry.__module__ = alias, __name__
        timm.models.register_model(entry)
    levels = [info["module"] for info in timm.create_model(name).feature_info[1:3]]
    return PatchcoreModel(backbone=alias, layers=levels, pre_trained=False, **kwargs)


@pytest.mark.parametrize("name", TINY)
def test_patchcore(name: str) -> None:
    torch.manual_seed(0)
    model = patchcore(name, num_neighbors=3)
    side = timm.create_model(name).pretrained_cfg["input_size"][-1]
    normal = torch.randn(4, 3, side, side)
    model.train()
    model(normal)
    model.subsample_embedding(0.5)
    model.eval()
    with torch.no_grad():
        odd = normal.clone()
        odd[:, :, :, : side // 2] = 10 * normal[:, :, :, : side // 2].flip(3)
        seen, unseen = model(normal), model(odd)
    assert seen.anomaly_map.shape == (4, 1, side, side)
    assert (unseen.pred_score > seen.pred_score).all()


@pytest.mark.parametrize("name", TINY)
def test_maps_are_the_models(name: str) -> None:
    extractor = patchcore(name).feature_extractor.eval()
    model = timm.create_model(name, features_only=True, out_indices=(1, 2)).eval()
    model.load_state_dict(extractor.feature_extractor.state_dict())
    side = timm.create_model(name).pretrained_cfg["input_size"][-1]
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        found, expected = extractor(x), model(x)
    for y, z in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(y, z)
