"""Randomness as a function of the seed and the place in the run, so that a resumed run draws what it would have drawn.

Nothing needs to be stored, and neither the number of workers nor a kill in mid-epoch makes a difference: the random
numbers of a training sample depend on how many samples were drawn before it, by all processes together; those of a
training step (drop path, Mixup) on the iteration and the process.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from torch.utils.data import Sampler

__all__ = ["SeedHook", "SeededDataset", "SeededSampler", "seed_all", "seed_dataloader"]


def seed_all(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators from some non-negative integers."""
    python, numpy, *halves = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(python))
    np.random.seed(numpy)
    torch.manual_seed(int(halves[0]) << 32 | int(halves[1]))


@HOOKS.register_module()
class SeedHook(Hook):
    """Seed every training step by itself: drop path, dropout, and what the model does with a batch (Mixup, CutMix)."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        seed_all(runner.seed, runner.rank, runner.iter)


class Draw(int):
    """Index of a sample, with the number of samples drawn before it."""

    number: int


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Another sampler's indices, numbered as :class:`SeededDataset` wants them.

    Args:
        sampler: config of the other one.
        dataset, seed: given by the runner.
    """

    def __init__(self, sampler: dict, dataset, seed: int | None = None) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.dataset = dataset
        self.epoch = self.skipped = 0
        if hasattr(self.sampler, "skip"):  # the training loop asks for it
            self.skip = self._skip

    def __iter__(self) -> Iterator[Draw]:
        rank, world_size = get_dist_info()
        before = self.epoch * len(self) + self.skipped
        for i, index in enumerate(self.sampler):
            draw = Draw(index)
            draw.number = (before + i) * world_size + rank
            yield draw

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        self.skipped = num_samples
        self.sampler.skip(num_samples)


@DATASETS.register_module()
class SeededDataset:
    """Another dataset whose augmentation is seeded for every sample; everything else it does itself.

    Args:
        dataset: config of the other one.
        seed: of the run.
    """

    def __init__(self, dataset: dict, seed: int) -> None:
        self.dataset = DATASETS.build(dataset)
        self.seed = seed

    def __getitem__(self, index: int):
        if isinstance(index, Draw):
            seed_all(self.seed, index.number)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        if name == "dataset":  # not there yet while a worker unpickles
            raise AttributeError(name)
        return getattr(self.dataset, name)


def seed_dataloader(dataloader: ConfigDict, seed: int) -> None:
    """Wrap dataset and sampler of a dataloader's config in the two above, with this seed."""
    if dataloader.dataset.type == "SeededDataset":
        dataloader.dataset.seed = seed
        return
    dataloader.dataset = dict(type="SeededDataset", dataset=dataloader.dataset, seed=seed)
    dataloader.sampler = dict(type="SeededSampler", sampler=dataloader.sampler)
