"""Receptive fields, Grad-CAM, colours and objects against slow, obvious computations on tiny models."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import backbones
from backbones.evaluation.encoder import load_encoder
from backbones.evaluation.inside import grad_cam, pca_colours, receptive_field, token_cut


@pytest.mark.parametrize("name", ["test_van", "test_halonet", "test_illama"])
def test_receptive_field_by_differences(name):
    """The gradient along a direction is how much the centre pixel changes along it."""
    encoder = load_encoder(f"{name}=random", (32, 48))
    encoder.model.double()
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 48, dtype=torch.double)
    found = receptive_field(encoder, images, 0)
    for y, x in ((8, 20), (16, 24), (31, 47)):
        expected = 0.0
        for b in range(2):
            for c in range(3):
                step = torch.zeros_like(images)
                step[b, c, y, x] = 1e-5
                with torch.no_grad():
                    up, down = (encoder.maps(images + sign * step, 0).relu() for sign in (1, -1))
                centre = up.shape[1] // 2, up.shape[2] // 2
                expected += abs(float((up - down)[:, centre[0], centre[1]].sum())) / 2e-5 / 6
        assert float(found[y, x]) == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert not any(p.grad is not None for p in encoder.model.parameters())


@pytest.mark.parametrize("name", backbones.list_models("test_*", task="classification"))
def test_no_receptive_field_is_empty(name):
    """All channels of a normalised pixel add up to the same whatever it is: their gradient is none."""
    encoder = load_encoder(f"{name}=random", (64, 64))
    torch.manual_seed(0)
    for level in range(len(encoder.widths)):
        assert receptive_field(encoder, torch.randn(1, 3, 64, 64), level).max() > 1e-6


@pytest.mark.parametrize("name", [*backbones.list_models("test_*", task="classification"), "test_resnet", "test_vit"])
def test_grad_cam_by_hand(name):
    encoder = load_encoder(f"{name}=random", None if name == "test_vit" else (96, 128))
    torch.manual_seed(0)
    images = torch.randn(1, 3, *encoder.img_size)
    found = grad_cam(encoder, images, [7])
    tokens = name in ("test_illama", "test_vit")
    kept = []
    level = encoder.model.feature_info[-2 if tokens else -1]
    module = encoder.model.get_submodule(level["module"])
    handle = module.register_forward_hook(lambda m, args, out: kept.append(out))
    logit = encoder.model(images)[0, 7]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    x, gradient = kept[0].detach()[0], gradient[0]
    if name == "test_resnet":
        x, gradient = x.permute(1, 2, 0), gradient.permute(1, 2, 0)
    elif tokens:
        where = slice(0, -1) if name == "test_illama" else slice(1, None)
        rows = -(-encoder.img_size[0] // 16)
        x, gradient = (t[where].unflatten(0, (rows, -1)) for t in (x, gradient))
    weights = gradient.mean((0, 1))
    cam = sum(weights[c] * x[..., c] for c in range(len(weights))).clamp(min=0)
    assert gradient.abs().max() > 0
    cam = cam - cam.min()
    cam = cam / (cam.max() + 1e-7)
    expected = F.interpolate(cam[None, None], encoder.img_size, mode="bilinear")[0, 0]
    expected = (expected - expected.min()) / (expected.max() - expected.min() + 1e-7)
    assert found.shape == (1, *encoder.img_size)
    np.testing.assert_allclose(found[0], expected.numpy(), atol=0.02)


def test_colours_by_singular_vectors():
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 5, 7) * torch.arange(1, 8)
    x = maps.reshape(-1, 7).double().numpy()
    x = x - x.mean(0)
    axes = np.linalg.svd(x)[2][:3].T
    for i in range(3):
        axes[:, i] *= np.sign(axes[np.abs(axes[:, i]).argmax(), i])
        values = x @ axes[:, i]
        low, high = np.percentile(values, [1, 99])
        expected = np.clip((values - low) / (high - low), 0, 1)
        np.testing.assert_allclose(pca_colours(maps)[..., i].flatten(), expected, atol=1e-4)
    assert pca_colours(maps[..., :2]).shape == (2, 4, 5, 3)


def test_token_cut_by_hand():
    torch.manual_seed(3)
    features = torch.randn(4, 5, 6)
    cut = token_cut(features)
    x = features.reshape(20, 6).double()
    A = np.zeros((20, 20))
    for i in range(20):
        for j in range(20):
            A[i, j] = 1 if float(torch.cosine_similarity(x[i], x[j], 0)) > 0.2 else 1e-5
    D = np.diag(A.sum(1))
    values, vectors = np.linalg.eig(np.linalg.inv(D) @ (D - A))
    vector = np.real(vectors[:, np.argsort(np.real(values))[1]])
    scaled = cut.eigenvector.reshape(-1) / np.linalg.norm(cut.eigenvector)
    assert abs(scaled @ vector) / np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    high = cut.eigenvector > cut.eigenvector.mean()
    seed = np.unravel_index(np.abs(cut.eigenvector).argmax(), (4, 5))
    part, border = {tuple(map(int, seed))}, [tuple(map(int, seed))]
    while border:
        y, x = border.pop()
        for at in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= at[0] < 4 and 0 <= at[1] < 5 and high[at] and at not in part:
                part.add(at)
                border.append(at)
    assert {tuple(map(int, at)) for at in np.argwhere(cut.mask)} == part
    ys, xs = zip(*part)
    assert cut.box == pytest.approx((min(xs) / 5, min(ys) / 4, (max(xs) + 1) / 5, (max(ys) + 1) / 4))


def test_token_cut_finds_a_planted_object():
    features = torch.zeros(8, 10, 4)
    features[..., 0] = 1
    features[2:5, 3:7] = torch.tensor([0.0, 1, 0, 0])
    features += 0.05 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    cut = token_cut(features)
    expected = np.zeros((8, 10), bool)
    expected[2:5, 3:7] = True
    assert (cut.mask == expected).all() and cut.box == pytest.approx((0.3, 0.25, 0.7, 0.625))
