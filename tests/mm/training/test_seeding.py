"""Random numbers depend on the seed and the place in the run, and on nothing else."""

import random

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from backbones.mm.training import seeding

pytestmark = pytest.mark.mm


def draw(info: dict) -> tuple[int, float, float, float]:
    return info["sample_idx"], random.random(), np.random.rand(), torch.rand(()).item()


@DATASETS.register_module()
class Numbers(BaseDataset):
    def load_data_list(self):
        return [dict(number=i) for i in range(self.metainfo["count"])]


def loader(sampler: str, workers: int = 0, seed: int = 3, batch_sampler=None):
    cfg = ConfigDict(
        batch_size=3,
        num_workers=workers,
        dataset=dict(type="Numbers", metainfo=dict(count=11), pipeline=[draw]),
        sampler=dict(type=sampler, shuffle=True),
        collate_fn=dict(type="default_collate"),
    )
    seeding.seed_dataloader(cfg, seed)
    return Runner.build_dataloader(cfg, seed=seed)


def read(batches, count: int) -> list[list[float]]:
    return [torch.stack([column.double() for column in batch], 1).tolist() for batch, _ in zip(batches, range(count))]


def test_augmentation_does_not_depend_on_workers():
    alone, shared = loader("DefaultSampler"), loader("DefaultSampler", workers=2)
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)
        shared.sampler.set_epoch(epoch)
        torch.rand(5)  # what else is drawn makes no difference
        first = read(alone, 4)
        assert first == read(shared, 4)
    numbers = [sample[1:] for batch in first for sample in batch]
    assert len({tuple(n) for n in numbers}) == 11
    alone.sampler.set_epoch(0)
    assert read(alone, 4) != first
    assert read(loader("DefaultSampler", seed=4), 4) != read(alone, 4)


def test_skipped_samples_count():
    whole = read(loader("InfiniteSampler"), 8)
    resumed = loader("InfiniteSampler")
    resumed.sampler.skip(5 * 3)
    assert read(resumed, 3) == whole[5:]


def test_processes_share_what_one_would_draw(monkeypatch):
    whole = [sample for batch in read(loader("InfiniteSampler"), 4) for sample in batch]
    for rank in range(2):
        for user in ("backbones.mm.training.seeding", "mmengine.dataset.sampler"):
            monkeypatch.setattr(f"{user}.get_dist_info", lambda rank=rank: (rank, 2))
        mine = [sample for batch in read(loader("InfiniteSampler"), 2) for sample in batch]
        assert mine == whole[rank::2]


def test_a_config_of_an_earlier_run_takes_the_new_seed():
    cfg = ConfigDict(dataset=dict(type="Numbers"), sampler=dict(type="DefaultSampler"))
    seeding.seed_dataloader(cfg, 1)
    seeding.seed_dataloader(cfg, 2)
    assert cfg.dataset == dict(type="SeededDataset", dataset=dict(type="Numbers"), seed=2)
    assert cfg.sampler == dict(type="SeededSampler", sampler=dict(type="DefaultSampler"))


def test_wrapped_dataset_is_the_dataset():
    dataset = loader("DefaultSampler").dataset
    assert dataset.metainfo["count"] == len(dataset) == 11
    assert dataset.get_data_info(4)["number"] == 4
    assert not hasattr(dataset, "absent")
