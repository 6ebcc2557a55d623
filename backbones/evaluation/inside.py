"""What a model sees and finds in images, without its attention: receptive fields, Grad-CAM, colours, objects."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import backbones
from backbones.evaluation.attention import token_grid
from backbones.evaluation.encoder import Encoder

__all__ = ["Cut", "grad_cam", "pca_colours", "receptive_field", "token_cut"]


def receptive_field(encoder: Encoder, images: Tensor, level: int = -1) -> Tensor:
    """Effective receptive field: |gradient| of the centre pixel of a level by the image, averaged over images: (H, W).

    images: (B, 3, H, W). The gradient is that of the sum of the pixel's positive channels, its size the mean over
    colours. The sum of all channels has none where a level ends in a norm: it is the same for every image.
    Source: Luo et al., "Understanding the Effective Receptive Field", arXiv:1701.04128.
    """
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        maps = encoder.maps(images, level)
        centre = maps[:, maps.shape[1] // 2, maps.shape[2] // 2].relu().sum()
        (gradient,) = torch.autograd.grad(centre, images)
    return gradient.abs().mean((0, 1))


def as_map(encoder: Encoder, x: Tensor) -> Tensor:
    """What a module of a level gives, whatever its layout, as (B, C, H, W)."""
    ours = encoder.model.__class__.__module__.startswith(f"{backbones.__name__}.")
    if x.ndim == 3:  # tokens; the class token stands last in this package, first in timm
        prefix = getattr(encoder.model, "num_prefix_tokens", 0)
        x = x[:, :-1] if ours else x[:, prefix:]
        size = token_grid(x.shape[1], encoder.img_size)
        if size is None:
            raise ValueError(f"{encoder.name}: {x.shape[1]} tokens are no grid of square patches")
        return x.transpose(1, 2).unflatten(2, size)
    if ours or getattr(encoder.model, "output_fmt", "NCHW") == "NHWC":
        return x.permute(0, 3, 1, 2)
    return x


def grad_cam(encoder: Encoder, images: Tensor, classes: list[int] | None = None) -> np.ndarray:
    """Where the evidence for a class is, from 0 to 1: (B, H, W). Selvaraju et al., arXiv:1610.02391; by ``grad-cam``.

    Of the last level; of the last but one where a class token alone is classified, on which no patch of the last
    level has an effect.

    Args:
        encoder: A classifier.
        images: (B, 3, H, W)
        classes: One for each image; the predicted ones by default.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = encoder.model
    tokens = len({info["reduction"] for info in model.feature_info}) == 1 and len(model.feature_info) > 1
    layer = model.get_submodule(model.feature_info[-2 if tokens else -1]["module"])
    targets = None if classes is None else [ClassifierOutputTarget(c) for c in classes]
    with torch.enable_grad(), GradCAM(model, [layer], reshape_transform=lambda x: as_map(encoder, x)) as cam:
        found = cam(input_tensor=images, targets=targets)
    model.zero_grad(set_to_none=True)
    return found


def pca_colours(maps: Tensor) -> Tensor:
    """The three principal components of all positions of all maps as red, green and blue: (n, h, w, C) -> (n, h, w, 3)

    Each component goes from 0 at its 1st percentile to 1 at its 99th, with the sign that makes its largest weight
    positive.
    """
    x = maps.flatten(0, 2).double()
    x = x - x.mean(0)
    _, axes = torch.linalg.eigh(x.T @ x)
    axes = axes[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    colours = x @ axes
    low, high = (torch.quantile(colours, q, dim=0) for q in (0.01, 0.99))
    colours = ((colours - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return F.pad(colours, (0, 3 - colours.shape[1])).float().view(*maps.shape[:3], 3)


class Cut(NamedTuple):
    """An object that was found without labels.

    Attributes:
        mask: (h, w), the object's positions.
        box: Left, top, right and bottom as fractions of the map.
        eigenvector: (h, w), positive on the object's side.
    """

    mask: np.ndarray
    box: tuple[float, float, float, float]
    eigenvector: np.ndarray


def token_cut(features: Tensor, threshold: float = 0.2, weak: float = 1e-5) -> Cut:
    """TokenCut: the normalised cut of a graph of positions. Wang et al., CVPR 2022, arXiv:2202.11539.

    Edges are 1 where the cosine of two positions exceeds ``threshold``, else ``weak``. The second generalised
    eigenvector of (D - A) x = lambda D x is split at its mean; the object is the connected part (by edges of positions)
    that holds the entry of largest magnitude. Features trained with labels find objects less well than self-supervised
    ones.

    Args:
        features: (h, w, C)
        threshold: Of the cosine.
        weak: Weight of the other edges.
    """
    from scipy.linalg import eigh
    from scipy.ndimage import label

    h, w, _ = features.shape
    x = F.normalize(features.flatten(0, 1).double(), dim=1)
    edges = np.where((x @ x.T).cpu().numpy() > threshold, 1.0, weak)
    degrees = np.diag(edges.sum(1))
    _, vectors = eigh(degrees - edges, degrees, subset_by_index=[1, 1])
    vector = vectors[:, 0]
    seed = int(np.abs(vector).argmax())
    vector = vector * np.sign(vector[seed])
    parts, _ = label((vector > vector.mean()).reshape(h, w))
    mask = parts == parts.flat[seed]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0] / w, rows[0] / h, (columns[-1] + 1) / w, (rows[-1] + 1) / h)
    return Cut(mask, tuple(float(side) for side in box), vector.reshape(h, w))  # type: ignore[arg-type]
