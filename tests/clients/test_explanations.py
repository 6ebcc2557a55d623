"""captum and pytorch-grad-cam: attributions are those of the plain form."""

from collections.abc import Callable

import captum.attr
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from tests.every_module import close, lively, plain
from tests.test_models import TINY, images

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("fast_kernels")]


def last_level(model: nn.Module) -> nn.Module:
    """What computes the last map, (B, H, W, C); in a class-token model it is tokens, of which the head reads one."""
    level = model.get_submodule(model.feature_info[-1]["module"])
    return level.norm1 if hasattr(model, "stem") and hasattr(model.stem, "cls_token") else level


def channels_first(x: Tensor) -> Tensor:
    """Maps of the last level of 64 x 96 pixels, (B, 2, 3, C) or tokens and a class token, as grad-cam takes them."""
    if x.ndim == 3:
        x = x[:, :-1].unflatten(1, (4, 6))
    return x.permute(0, 3, 1, 2)


def of_layer(method: type, **kwargs) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda model, x: method(model, last_level(model)).attribute(x, **kwargs)


def of_pixels(method: type, **kwargs) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda model, x: method(model).attribute(x, target=1, **kwargs)


ATTRIBUTIONS = {
    "Saliency": of_pixels(captum.attr.Saliency),
    "IntegratedGradients": of_pixels(captum.attr.IntegratedGradients, n_steps=4),
    "GuidedBackprop": of_pixels(captum.attr.GuidedBackprop),
    "Occlusion": of_pixels(captum.attr.Occlusion, sliding_window_shapes=(3, 32, 32), strides=(3, 32, 32)),
    "LayerActivation": of_layer(captum.attr.LayerActivation),
    "LayerConductance": of_layer(captum.attr.LayerConductance, target=1, n_steps=4),
    "LayerGradCam": of_layer(captum.attr.LayerGradCam, target=1, attr_dim_summation=False),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # about hooks and gradients that captum sets
@pytest.mark.parametrize("method", ATTRIBUTIONS)
@pytest.mark.parametrize("name", TINY)
def test_captum(name: str, method: str) -> None:
    model, x = lively(name).eval(), images()
    with plain():
        expected = ATTRIBUTIONS[method](model, x)
    found = ATTRIBUTIONS[method](model, x)
    assert len(found) == len(x) and expected.abs().max() > 0
    close(found.detach(), expected.detach())


@pytest.mark.parametrize("name", TINY)
def test_grad_cam(name: str) -> None:
    """By its definition: the layer's map, its channels weighted by the mean of their gradients."""
    model, x = lively(name).eval(), images()
    found, expected = [], []
    for label in range(4):
        with GradCAM(model, [last_level(model)], channels_first) as cam:
            found.append(torch.from_numpy(cam(x, [ClassifierOutputTarget(label)] * len(x))))
        maps: list[Tensor] = []
        handle = last_level(model).register_forward_hook(lambda module, args, output: maps.append(output))  # noqa: B023
        with plain():
            score = model(x)[:, label].sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, maps)
        weight = channels_first(gradient).mean((2, 3), keepdim=True)
        picture = (weight * channels_first(maps[0])).sum(1).relu().detach().numpy()
        picture = scale_cam_image(scale_cam_image(picture, (96, 64)))  # each layer's, then the sum of layers
        expected.append(torch.from_numpy(picture))
    assert torch.stack(expected).any() and found[0].shape == (2, 64, 96)
    close(torch.stack(found), torch.stack(expected))
