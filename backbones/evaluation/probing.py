"""Three readings of frozen features: nearest neighbours, a linear probe, and efficient probing.

Psomas et al., "Attention, Please! Revisiting Attentive Probing for Masked Image Modeling", arXiv:2506.10178, ICLR 2026,
for the third, in the form of the released code. Linear and efficient probe are trained alike: BatchNorm without affine
parameters, a linear layer, AdamW, 90 epochs, the last one reported. Nothing is chosen by the held-out images.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.evaluation.folder import split_at_random

__all__ = ["EfficientProbe", "LinearProbe", "Neighbors", "default_queries", "fit_probe", "predict", "search_neighbors"]

NEIGHBORS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.07, 0.1, 0.2)


# Nearest neighbours ---------------------------------------------------------------------------------------------------


class Neighbors(NamedTuple):
    """How many neighbours vote, and the temperature of their votes."""

    k: int
    temperature: float


def neighbor_votes(memory: Tensor, labels: Tensor, queries: Tensor, classes: int, options: Neighbors) -> Tensor:
    """Sums of exp(cosine / temperature) over the k nearest of the memory, by class.

    memory: (n, C), labels: (n,), queries: (m, C) -> (m, classes)
    """
    from sklearn.neighbors import NearestNeighbors

    # of vectors of length 1 the squared distance is 2 - 2 cosine
    search = NearestNeighbors(n_neighbors=min(options.k, len(memory))).fit(F.normalize(memory, dim=1).numpy())
    distances, indices = map(torch.from_numpy, search.kneighbors(F.normalize(queries, dim=1).numpy()))
    votes = ((1 - distances**2 / 2) / options.temperature).exp()
    return votes.new_zeros(len(queries), classes).scatter_add_(1, labels[indices], votes)


def search_neighbors(features: Tensor, labels: Tensor, classes: int) -> Neighbors:
    """The number of neighbours and the temperature that do best on a held-out fifth of the training images.

    features: (n, C), labels: (n,)
    """
    stay, out = map(torch.from_numpy, split_at_random(labels.numpy()))
    pairs = [Neighbors(k, t) for k in NEIGHBORS if k == 1 or k <= len(stay) for t in TEMPERATURES]

    def correct(options: Neighbors) -> int:
        votes = neighbor_votes(features[stay], labels[stay], features[out], classes, options)
        return int((votes.argmax(1) == labels[out]).sum())

    return max(pairs, key=correct)  # the first of equals: few neighbours, a low temperature


# Trained probes -------------------------------------------------------------------------------------------------------


class LinearProbe(nn.Module):
    """Mean of the positions -> BatchNorm without affine parameters -> linear. x: (B, N, C) -> (B, num_classes)"""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x.mean(1)))


def default_queries(dim: int, most: int = 32) -> int:
    """The largest number of queries up to ``most`` that divides ``dim``."""
    return max(q for q in range(1, most + 1) if dim % q == 0)


class EfficientProbe(nn.Module):
    """Learned queries pool slices of the projected positions; a linear layer reads them. arXiv:2506.10178.

    x: (B, N, C) -> (B, num_classes). Query m attends with softmax_n(C^-0.5 query_m x_n): one head of full width, and
    the keys are the positions themselves, not projected. The values x Wv have C / reduction channels, cut into a slice
    a query; slice m is pooled by query m, and all are concatenated.
    Parameters before the classifier: num_queries * C + C^2 / reduction.

    Args:
        dim: Channels C.
        num_classes: Classes.
        num_queries: Queries; they must divide C / reduction.
        reduction: By how much the values are narrower than the features.

    Raises:
        ValueError: If ``reduction`` does not divide ``dim``, or ``num_queries`` not dim / reduction.
    """

    def __init__(self, dim: int, num_classes: int, num_queries: int = 32, reduction: int = 1) -> None:
        super().__init__()
        if dim % reduction:
            raise ValueError(f"reduction {reduction} does not divide {dim} channels")
        width = dim // reduction
        if num_queries < 1 or width % num_queries:
            fitting = ", ".join(str(q) for q in range(1, min(width, 64) + 1) if width % q == 0)
            raise ValueError(f"{num_queries} queries do not divide {width} channels of values; these do: {fitting}")
        self.queries = nn.Parameter(torch.empty(num_queries, dim))
        self.v = nn.Linear(dim, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.fc = nn.Linear(width, num_classes)
        nn.init.normal_(self.queries, std=0.02)

    def attention(self, x: Tensor) -> Tensor:
        """What each query attends to: (B, N, C) -> (B, num_queries, N), rows that add up to 1."""
        return (self.queries @ x.transpose(1, 2) * x.shape[2] ** -0.5).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        values = self.v(x).unflatten(2, (len(self.queries), -1))  # (B, N, Q, C / reduction / Q)
        pooled = torch.einsum("bqn,bnqd->bqd", self.attention(x), values)
        return self.fc(self.norm(pooled.flatten(1)))


def fit_probe(
    probe: nn.Module, features: Tensor, labels: Tensor, epochs: int = 90, batch_size: int = 256, seed: int = 0
) -> nn.Module:
    """Train a probe: AdamW, weight decay 0.01, learning rate 0.005 that falls along a cosine.

    features: (n, N, C), labels: (n,). Returns ``probe`` in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=5e-3, weight_decay=0.01)
    batches = max(1, math.ceil(len(labels) / batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    probe.train()
    for _ in range(epochs):
        # as many images in every batch: BatchNorm does not take one that has a single image
        for batch in torch.randperm(len(labels), generator=generator).tensor_split(batches):
            optimizer.zero_grad()
            F.cross_entropy(probe(features[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return probe.eval()


def predict(probe: nn.Module, features: Tensor, batch_size: int = 256) -> np.ndarray:
    """Classes that a probe finds: (n, N, C) -> (n,)"""
    with torch.inference_mode():
        return torch.cat([probe(x).argmax(1) for x in features.split(batch_size)]).numpy()
