"""Nearest neighbours and trained probes: formulas by hand, and what they find on real scans."""

import math

import numpy as np
import pytest
import torch

from backbones.evaluation.encoder import load_encoder
from backbones.evaluation.features import extract_features
from backbones.evaluation.folder import open_folder
from backbones.evaluation.probing import (
    EfficientProbe,
    LinearProbe,
    Neighbors,
    default_queries,
    fit_probe,
    neighbor_votes,
    predict,
    search_neighbors,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from backbones.mm.training.digits import write_digits

    return open_folder(write_digits(tmp_path_factory.mktemp("data") / "digits"))


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("test_van.digits")


def test_votes_by_hand():
    memory, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    query = torch.randn(1, 3)
    cosines = [float(torch.cosine_similarity(query, row[None])) for row in memory]
    expected = [0.0, 0.0, 0.0]
    for i in sorted(range(6), key=lambda i: -cosines[i])[:4]:
        expected[labels[i]] += math.exp(cosines[i] / 0.2)
    votes = neighbor_votes(memory, labels, query, 3, Neighbors(4, 0.2))
    torch.testing.assert_close(votes[0].tolist(), expected, rtol=1e-4, atol=1e-4)


def test_efficient_probe_by_hand():
    torch.manual_seed(0)
    probe = EfficientProbe(12, 5, num_queries=3, reduction=2).eval()
    x = torch.randn(2, 7, 12)
    attention = probe.attention(x)
    pooled = torch.zeros(2, 6)
    for b in range(2):
        for q in range(3):
            scores = torch.stack([probe.queries[q] @ x[b, n] / math.sqrt(12) for n in range(7)])
            weights = scores.softmax(0)
            torch.testing.assert_close(attention[b, q], weights)
            for n in range(7):
                value = probe.v.weight @ x[b, n]
                pooled[b, 2 * q : 2 * q + 2] += weights[n] * value[2 * q : 2 * q + 2]
    torch.testing.assert_close(probe(x), probe.fc(probe.norm(pooled)))
    assert sum(p.numel() for p in (probe.queries, probe.v.weight)) == 3 * 12 + 12**2 // 2


def test_published_count_of_parameters():
    probe = EfficientProbe(768, 1000, num_queries=32)
    assert probe.queries.numel() + probe.v.weight.numel() == 614_400


@pytest.mark.parametrize("options", [{"num_queries": 5}, {"num_queries": 0}, {"num_queries": 8, "reduction": 5}])
def test_what_does_not_divide_is_refused(options):
    with pytest.raises(ValueError, match="do(es)? not divide (16|5) channels|do(es)? not divide"):
        EfficientProbe(16, 10, **options)
    with pytest.raises(ValueError, match="5 queries do not divide 16 channels of values; these do: 1, 2, 4, 8, 16"):
        EfficientProbe(16, 10, 5)


def test_default_queries_divide():
    assert [default_queries(dim) for dim in (16, 48, 240, 576, 7)] == [16, 24, 30, 32, 7]


def test_neighbours_on_digits(encoder, digits):
    train, val = digits
    memory, queries = (extract_features(encoder, split, -1).mean((1, 2)) for split in digits)
    labels = torch.from_numpy(train.labels)
    votes = neighbor_votes(memory, labels, queries, 10, search_neighbors(memory, labels, 10))
    assert (votes.argmax(1).numpy() == val.labels).mean() >= 0.97


def test_efficient_beats_linear_on_an_earlier_level(encoder, digits):
    train, val = digits
    labels = torch.from_numpy(train.labels)
    features, val_features = (extract_features(encoder, split, 2).flatten(1, 2) for split in digits)
    accuracy = {}
    for name, build in (("linear", LinearProbe), ("ep", EfficientProbe)):
        torch.manual_seed(0)
        probe = fit_probe(build(48, 10, **({"num_queries": 24} if name == "ep" else {})), features, labels)
        accuracy[name] = np.mean(predict(probe, val_features) == val.labels)
    assert accuracy["ep"] > accuracy["linear"] > 0.9
