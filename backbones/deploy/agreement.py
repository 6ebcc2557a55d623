"""How near an int8 file is to the model, over batches of images, and how near it has to be."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from backbones.kernels.int8 import INT8_TOLERANCE

__all__ = ["INT8_TOLERANCE", "Agreement", "BoxAgreement", "ScoreAgreement"]


class Agreement(ABC):
    """Grows with each batch.

    Attributes:
        whole: What its error is a share of.
    """

    whole: str

    @abstractmethod
    def add(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Outputs of the model and of the file for a batch."""

    @property
    @abstractmethod
    def relative_error(self) -> float:
        """Infinite where shapes differ or a value is not finite."""

    @property
    @abstractmethod
    def values(self) -> dict[str, float]:
        """What metadata says of this one."""

    @property
    def excess(self) -> str | None:
        """By how much it differs and what is allowed, if that is less."""
        if self.relative_error <= INT8_TOLERANCE:
            return None
        return f"{self.relative_error:.0%} of its {self.whole}, more than {INT8_TOLERANCE:.0%}"

    def __str__(self) -> str:
        return f"differs by {self.relative_error:.1%} of the {self.whole}"


class ScoreAgreement(Agreement):
    """Of class scores (B, classes, ...), which are of images or, where they are maps, of pixels."""

    whole = "outputs' deviation"

    def __init__(self) -> None:
        self._difference = self._size = 0.0
        self._same = self._count = 0

    def add(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        if [y.shape for y in expected] != [z.shape for z in found]:
            self._difference = math.inf
            return
        for y, z in zip(expected, found, strict=True):
            y, z = y.double(), z.double()
            self._difference += (z - y).square().sum().item()
            one = y.shape[1] == 1  # whose score is compared with zero, as the mean of two classes would be
            self._size += (y if one else y - y.mean(1, keepdim=True)).square().sum().item()
            matches = (y > 0) == (z > 0) if one else y.argmax(1) == z.argmax(1)
            self._same += int(matches.sum())
            self._count += matches.numel()

    @property
    def relative_error(self) -> float:
        """Root mean square of the difference over the standard deviation of the scores of an image or pixel."""
        if not math.isfinite(self._difference):
            return math.inf
        return math.sqrt(self._difference / self._size) if self._size else math.inf if self._difference else 0.0

    @property
    def top1(self) -> float:
        """Share of images or pixels with the same top class."""
        return self._same / max(self._count, 1)

    @property
    def values(self) -> dict[str, float]:
        return {"relative_error": self.relative_error, "top1_agreement": self.top1}

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.top1:.0%} have the same top class"


class BoxAgreement(Agreement):
    """Of boxes (B, K, 4), best first, scores (B, K) and labels (B, K), as ``Detector`` returns them; K may differ.

    The partner of a box is the other side's box of its label that overlaps it by half of their union or more; of
    several, the one with the best score. The better half of each side's boxes is looked for among all of the other's:
    which boxes have the last places is a matter of rounding.
    """

    whole = "boxes' scores"

    def __init__(self) -> None:
        self._difference = self._scores = self._matched = 0.0

    def add(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        if [y.shape[::2] for y in expected] != [z.shape[::2] for z in found]:
            self._difference = math.inf
            return
        for ours, theirs in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
            self._look_for(ours, theirs)
            self._look_for(theirs, ours)

    def _look_for(self, boxes: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        best = math.ceil(len(boxes[1]) / 2)
        places, scores, labels = (part[:best] for part in boxes)
        overlap = box_iou(places.double(), others[0].double()) >= 0.5
        partners = F.pad(torch.where(overlap & (labels[:, None] == others[2]), others[1], 0), (0, 1)).amax(1)
        self._difference += (scores - partners).abs().sum().item()
        self._scores += scores.sum().item()
        self._matched += scores[partners > 0].sum().item()

    @property
    def relative_error(self) -> float:
        """Sum of the differences of scores over that of scores, where a box without a partner counts in full."""
        if not math.isfinite(self._difference):
            return math.inf
        return self._difference / self._scores if self._scores else 0.0

    @property
    def matched(self) -> float:
        """Share of boxes that have a partner, weighted by their scores."""
        return self._matched / self._scores if self._scores else 1.0

    @property
    def values(self) -> dict[str, float]:
        return {"relative_error": self.relative_error, "matched_boxes": self.matched}

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.matched:.0%} have a partner"
