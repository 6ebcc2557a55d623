"""A whole run: which process measures what, and how rows come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from backbones.cli.benchmarking.measuring import Candidate, Settings, WorkerError, in_fresh_process
from backbones.cli.benchmarking.results import Result
from backbones.cli.benchmarking.runtimes import RUNTIMES

PASSES = {"inference": 1, "train": 3}  # products of a step, in those of a forward pass: each has two gradients


@dataclass(frozen=True)
class Speed:
    """What a process found: seconds of each turn, those of the baseline and of the first runtime beside them."""

    seconds: list[float]
    product_gflops: float
    baseline: list[float] | None = None
    first: list[float] | None = None


@dataclass
class Benchmark:
    """Measures models, one row a size, batch size, number of threads and runtime.

    A model that fails by one runtime has its error in that row, and everything else goes on.

    Args:
        runtimes: Names of ``RUNTIMES``; ratios between runtimes are to the first.
        modes: Of "inference" and "train"; what cannot train only infers.
        settings: One for each batch size and number of threads.
        folder: Where exported files go, and are looked for.
        baseline: A model that takes turns with each; None for none.
        memory: Measure peak memory, in a process of its own for each row and mode.
        progress: Is told what begins.
    """

    runtimes: Sequence[str]
    modes: Sequence[str]
    settings: Sequence[Settings]
    folder: str
    baseline: str | None = None
    memory: bool = True
    progress: Callable[[str], None] = lambda text: None
    _beside: dict[tuple, list[Speed]] = field(default_factory=lambda: defaultdict(list))

    def run(self, models: Sequence[str], img_size: tuple[int, int] | None = None) -> Iterator[Result]:
        """Rows in the order in which they are finished; the baseline's, from all runs beside the models, come last.

        Args:
            models: Names, or module:callable.
            img_size: Of all models; None for each model's own.
        """
        self._beside.clear()
        beside = self._prepare(self.baseline, img_size) if self.baseline else {"failed": "there is none"}
        for model in dict.fromkeys(models):
            if model != self.baseline:
                yield from self._rows(model, self._prepare(model, img_size), beside)
        if self.baseline:
            yield from self._rows(self.baseline, beside, {"failed": "it is the baseline"})

    def _prepare(self, model: str, img_size: tuple[int, int] | None) -> dict[str, Any]:
        """See ``measuring.prepare``; only ``failed`` where a model cannot even be built."""
        self.progress(f"{model}: counting" + (" and exporting" if self._exporting else ""))
        batch_sizes = list(dict.fromkeys(s.batch_size for s in self.settings))
        try:
            return in_fresh_process(
                "prepare",
                model=model,
                img_size=img_size,
                batch_sizes=batch_sizes,
                runtimes=self._exporting,
                folder=self.folder,
            )
        except WorkerError as error:
            return {"failed": str(error)}

    @property
    def _exporting(self) -> list[str]:
        return [name for name in self.runtimes if RUNTIMES[name].format]

    def _rows(self, model: str, found: dict[str, Any], beside: dict[str, Any]) -> Iterator[Result]:
        for settings in self.settings:
            rows = {name: self._empty_row(model, name, settings, found) for name in self.runtimes}
            for mode in self.modes:
                for name, row in rows.items():
                    if self.memory and self._can_run(row, mode):
                        rows[name] = self._with_memory(row, mode, settings, found)
                able = [name for name, row in rows.items() if self._can_run(row, mode)]
                for name, speed in self._speeds(model, mode, settings, able, found, beside).items():
                    rows[name] = self._with_speed(rows[name], mode, speed)
            yield from rows.values()

    def _empty_row(self, model: str, runtime: str, settings: Settings, found: dict[str, Any]) -> Result:
        threads = settings.threads or torch.get_num_threads()
        if "failed" in found:
            return Result(model, runtime, None, settings.batch_size, threads, errors=(found["failed"],))
        error = found["errors"].get(f"{runtime} {settings.batch_size}")
        size = (found["img_size"][0], found["img_size"][1])
        counts = (found["params"], found["macs"], found["activations"])
        return Result(model, runtime, size, settings.batch_size, threads, *counts, errors=(error,) if error else ())

    def _can_run(self, row: Result, mode: str) -> bool:
        return not row.errors and (mode == "inference" or RUNTIMES[row.runtime].trains)

    def _candidate(self, model: str, runtime: str, settings: Settings, found: dict[str, Any]) -> Candidate:
        file = found["files"].get(f"{runtime} {settings.batch_size}")
        return Candidate(model, (found["img_size"][0], found["img_size"][1]), runtime, file)

    def _with_memory(self, row: Result, mode: str, settings: Settings, found: dict[str, Any]) -> Result:
        self.progress(f"{row.model}, {row.runtime}, batch {settings.batch_size}, {mode}: memory")
        candidate = self._candidate(row.model, row.runtime, settings, found)
        try:
            memory = in_fresh_process("memory", settings.threads, candidate=candidate, mode=mode, settings=settings)
        except WorkerError as error:
            return replace(row, errors=(*row.errors, f"{mode}: {error}"))
        numbers: dict[str, Any] = {mode: replace(getattr(row, mode), peak_mib=memory["peak_mib"])}
        return replace(row, import_mib=memory["import_mib"], **numbers)

    def _speeds(
        self,
        model: str,
        mode: str,
        settings: Settings,
        runtimes: Sequence[str],
        found: dict[str, Any],
        beside: dict[str, Any],
    ) -> dict[str, Speed | str]:
        """Speed or error of a model by each runtime; the baseline's speeds are added to ``_beside``."""
        key = (settings, mode)
        if model == self.baseline and (kept := self._kept(key, runtimes)):
            return kept
        if not runtimes:
            return {}
        self.progress(f"{model}, {', '.join(runtimes)}, batch {settings.batch_size}, {mode}: speed")
        compared = [
            name
            for name in runtimes
            if "failed" not in beside and f"{name} {settings.batch_size}" not in beside["errors"]
        ]
        candidates = [self._candidate(model, name, settings, found) for name in runtimes]
        candidates += [self._candidate(str(self.baseline), name, settings, beside) for name in compared]
        try:
            timed = in_fresh_process("speed", settings.threads, candidates=candidates, mode=mode, settings=settings)
        except WorkerError as error:
            if len(runtimes) == 1:
                return {runtimes[0]: str(error)}
            alone = [self._speeds(model, mode, settings, [name], found, beside) for name in runtimes]
            return {name: speed for speeds in alone for name, speed in speeds.items()}
        gflops = timed["product_gflops"]
        own, others = timed["seconds"][: len(runtimes)], timed["seconds"][len(runtimes) :]
        baselines = {name: seconds for name, seconds in zip(compared, others, strict=True) if seconds}
        for name, seconds in baselines.items():
            self._beside[(*key, name)].append(Speed(seconds, gflops, first=baselines.get(self.runtimes[0])))
        first = own[0] if runtimes[0] == self.runtimes[0] else None
        return {
            name: Speed(seconds, gflops, baselines.get(name), first) if seconds else error
            for name, seconds, error in zip(runtimes, own, timed["errors"], strict=False)
        }

    def _kept(self, key: tuple, runtimes: Sequence[str]) -> dict[str, Speed | str]:
        """The baseline's speeds from all runs beside models, one after the other; nothing if a runtime lacks."""
        kept: dict[str, Speed | str] = {}
        for name in runtimes:
            speeds = self._beside.get((*key, name), [])
            speeds = [speed for speed in speeds if speed.first] or speeds
            if not speeds:
                return {}
            kept[name] = Speed(
                seconds=[x for speed in speeds for x in speed.seconds],
                product_gflops=median(speed.product_gflops for speed in speeds),
                first=[x for speed in speeds for x in speed.first or ()] or None,
            )
        return kept

    def _with_speed(self, row: Result, mode: str, speed: Speed | str) -> Result:
        if isinstance(speed, str):
            return replace(row, errors=(*row.errors, f"{mode}: {speed}"))
        seconds = median(speed.seconds)
        operations = row.macs and 2 * PASSES[mode] * row.macs * row.batch_size
        found = replace(
            getattr(row, mode),
            seconds=seconds,
            ratio=1.0 if row.model == self.baseline else speed.baseline and median_ratio(speed.seconds, speed.baseline),
            runtime_ratio=speed.first and median_ratio(speed.seconds, speed.first),
            share=operations and operations / seconds / (1e9 * speed.product_gflops),
        )
        numbers: dict[str, Any] = {mode: found}
        return replace(row, product_gflops=speed.product_gflops, **numbers)


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Speed relative to another's: the median over pairs of turns that followed each other, others over own.

    Not the quotient of two medians: a machine that slows down in between slows both of a pair.

    Raises:
        ValueError: If the two have different lengths, or none.
    """
    if not seconds or len(seconds) != len(others):
        raise ValueError(f"need as many timings of the one as of the other, got {len(seconds)}, {len(others)}")
    return median(b / a for a, b in zip(seconds, others, strict=True))
