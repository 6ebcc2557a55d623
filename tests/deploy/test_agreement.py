"""How int8 files are compared with the model."""

import pytest
import torch
from torch import Tensor

from backbones.deploy.agreement import BoxAgreement, ScoreAgreement


def scores(*batches: tuple[Tensor, Tensor]) -> ScoreAgreement:
    near = ScoreAgreement()
    for y, z in batches:
        near.add([y], [z])
    return near


def test_scores() -> None:
    y = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    z = torch.tensor([[0.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    found = scores((y, z))
    assert found.relative_error == pytest.approx((4 / 8) ** 0.5)  # the rows deviate by 1 + 0 + 1 and 4 + 1 + 1
    assert found.values == {"relative_error": found.relative_error, "top1_agreement": 0.5}
    assert found.excess == "71% of its outputs' deviation, more than 15%"
    maps = scores((y.T[None, :, :, None], z.T[None, :, :, None]))  # of two pixels
    assert maps.values == pytest.approx(found.values)
    assert scores((y, y), (y, z)).relative_error == pytest.approx((4 / 16) ** 0.5)
    assert scores((y, y), (y, y[:, :2])).relative_error == float("inf")
    assert scores((y, z * float("nan"))).excess
    assert scores((y, y)).relative_error == 0 and scores((y, y)).excess is None


def test_scores_of_one_class() -> None:
    found = scores((torch.tensor([[3.0], [-4.0]]), torch.tensor([[3.0], [1.0]])))
    assert (found.relative_error, found.top1) == (1, 0.5)


BOXES = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0], [0.0, 0.0, 0.0, 0.0]]])
SCORES = torch.tensor([[0.8, 0.4, 0.1, 0.0]])
LABELS = torch.tensor([[0, 1, 0, -1]])


def boxes(*found: Tensor) -> BoxAgreement:
    near = BoxAgreement()
    near.add([BOXES, SCORES, LABELS], found)
    return near


def test_boxes() -> None:
    """The better two of four on each side: scores of 1.2."""
    same = boxes(BOXES, SCORES, LABELS)
    assert same.values == {"relative_error": 0, "matched_boxes": 1} and same.excess is None
    assert boxes(BOXES + 1, SCORES, LABELS).values == same.values  # overlap by 81 of 119
    assert boxes(BOXES + 2, SCORES, LABELS).matched == 0  # 64 of 136
    lower = boxes(BOXES, SCORES / 2, LABELS)
    assert lower.relative_error == pytest.approx((0.6 + 0.6) / (1.2 + 0.6)) and lower.matched == 1
    other = LABELS.clone()
    other[0, 1] = 0
    mistaken = boxes(BOXES, SCORES, other)
    assert mistaken.relative_error == pytest.approx(0.8 / 2.4) and mistaken.matched == pytest.approx(1.6 / 2.4)
    assert mistaken.excess == "33% of its boxes' scores, more than 15%"
    other[0, 1:] = torch.tensor([1, 7, -1])
    assert boxes(BOXES, SCORES, other).values == same.values  # the third is not looked for
    order = torch.tensor([1, 0, 2, 3])
    assert boxes(BOXES[:, order], SCORES[:, order], LABELS[:, order]).values == same.values


def test_other_numbers_of_boxes() -> None:
    found = boxes(BOXES[:, :2], SCORES[:, :2], LABELS[:, :2])
    assert found.values == {"relative_error": 0, "matched_boxes": 1}
    nothing = boxes(BOXES[:, :0], SCORES[:, :0], LABELS[:, :0])
    assert nothing.relative_error == 1 and nothing.matched == 0
    invented = BoxAgreement()
    invented.add([BOXES[:, :0], SCORES[:, :0], LABELS[:, :0]], [BOXES, SCORES, LABELS])
    assert invented.excess
    assert boxes(BOXES[:, :, :2], SCORES, LABELS).relative_error == float("inf")
    assert boxes(BOXES, SCORES * float("nan"), LABELS).excess
