"""A memory of normal patches against loops over all pairs."""

import pytest
import torch

from backbones.evaluation.anomaly import PatchMemory, coreset, neighborhood_means


def test_distances_scores_and_heat_maps_by_hand():
    torch.manual_seed(0)
    normal, maps = torch.randn(3, 4, 5, 6), torch.randn(2, 4, 5, 6)
    memory = PatchMemory(normal)

    def means(maps):
        out = torch.empty_like(maps)
        for y in range(4):
            for x in range(5):
                out[:, y, x] = maps[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean((1, 2))
        return out

    torch.testing.assert_close(neighborhood_means(maps), means(maps))
    known = means(normal).flatten(0, 2)
    distances = means(maps).unsqueeze(3).sub(known).norm(dim=-1).amin(-1)
    torch.testing.assert_close(memory.distances(maps), distances)
    torch.testing.assert_close(memory.scores(maps), distances.flatten(1).amax(1))
    heat = memory.heat_maps(maps, 40, 50)
    assert heat.shape == (2, 40, 50)
    torch.testing.assert_close(heat[:, 0, 0], distances[:, 0, 0])  # corners are the corners' patches
    assert float(memory.scores(normal).max()) < 1e-3 < float(memory.scores(maps).min())


def test_coreset_takes_the_farthest():
    torch.manual_seed(0)
    patches = torch.randn(40, 3)
    chosen = coreset(patches, 7).tolist()
    assert len(set(chosen)) == 7
    for step in range(1, 7):
        nearest = [min(float((p - patches[c]).norm()) for c in chosen[:step]) for p in patches]
        assert nearest[chosen[step]] == pytest.approx(max(nearest), rel=1e-4)
    assert sorted(coreset(patches, 40).tolist()) == list(range(40))
    with pytest.raises(ValueError, match="1 to 40 of them, not 41"):
        coreset(patches, 41)


def test_a_large_memory_is_a_coreset():
    maps = torch.randn(4, 8, 8, 3)
    assert len(PatchMemory(maps, most=30).patches) == 30 and len(PatchMemory(maps, most=256).patches) == 256
