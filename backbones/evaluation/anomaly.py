"""Anomalies as patches unlike any of a memory of normal ones (Roth et al., "PatchCore", CVPR 2022): no training."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PatchMemory", "coreset"]


def coreset(patches: Tensor, size: int, seed: int = 0) -> Tensor:
    """Greedy k-centre: indices (size,) of patches such that no patch is far from its nearest chosen one.

    patches: (n, C). Begins with a drawn patch; each further one is the one farthest from those chosen so far.

    Raises:
        ValueError: If ``size`` is not from 1 to n.
    """
    if not 1 <= size <= len(patches):
        raise ValueError(f"a coreset of {len(patches)} patches has 1 to {len(patches)} of them, not {size}")
    chosen = [int(torch.randint(len(patches), (), generator=torch.Generator().manual_seed(seed)))]
    distance = torch.full((len(patches),), torch.inf)
    for _ in range(size - 1):
        distance = torch.minimum(distance, (patches - patches[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)


def neighborhood_means(maps: Tensor) -> Tensor:
    """Means of 3x3 positions, fewer at the border, so that a patch knows what is around it. (n, h, w, C) -> the same"""
    pooled = F.avg_pool2d(maps.permute(0, 3, 1, 2), 3, stride=1, padding=1, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1)


class PatchMemory:
    """Patches of normal images.

    Args:
        maps: (n, h, w, C), features of normal images.
        most: Patches that are kept: a coreset of them where there are more.
    """

    def __init__(self, maps: Tensor, most: int = 2000) -> None:
        from sklearn.neighbors import NearestNeighbors

        patches = neighborhood_means(maps).flatten(0, 2)
        if len(patches) > most:
            patches = patches[coreset(patches, most)]
        self.patches = patches
        self.search = NearestNeighbors(n_neighbors=1).fit(patches.numpy())

    def distances(self, maps: Tensor) -> Tensor:
        """Distance of every position to the nearest patch of the memory: (n, h, w, C) -> (n, h, w)"""
        patches = neighborhood_means(maps)
        nearest, _ = self.search.kneighbors(patches.flatten(0, 2).numpy())
        return torch.from_numpy(nearest).float().view(patches.shape[:3])

    def heat_maps(self, maps: Tensor, height: int, width: int) -> Tensor:
        """The distances at the size of the image: (n, h, w, C) -> (n, height, width)"""
        return F.interpolate(self.distances(maps)[:, None], (height, width), mode="bilinear")[:, 0]

    def scores(self, maps: Tensor) -> Tensor:
        """Of an image the largest distance: (n, h, w, C) -> (n,)"""
        return self.distances(maps).flatten(1).amax(1)
