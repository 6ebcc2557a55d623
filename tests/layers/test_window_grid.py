"""Windows of a grid against a slow reading of the rule: which tokens share a window, and which see each other."""

from itertools import product

import pytest
import torch

from backbones.layers.functional import attention_bias, window_grid

CPU = torch.device("cpu")
CASES = [  # grid, window
    ((1, 4, 4), (1, 2, 2)),
    ((1, 8, 4), (1, 4, 4)),  # a single window along one axis
    ((4, 4, 6), (2, 2, 2)),
    ((1, 5, 7), (1, 4, 2)),
    ((3, 3, 5), (2, 2, 4)),
    ((2, 2, 2), (1, 1, 1)),
]


def place(token, window, shifts, padded):
    """Window of a token, and its region there: tokens that went round the end of an axis are of another one."""
    rolled = [(t - s) % p for t, s, p in zip(token, shifts, padded)]
    return [r // w for r, w in zip(rolled, window)], [t < s for t, s in zip(token, shifts)]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CASES)
def test_tokens_see_what_they_should(grid, window, shifted):
    cut = window_grid(grid, window, CPU)
    shifts = [w // 2 if shifted else 0 for w in window]
    tokens = list(product(*map(range, grid)))
    numbers = torch.arange(1, len(tokens) + 1).view(1, *grid, 1)  # 0 is padding
    windows = cut.partition(numbers)
    windows = (cut.shift(windows) if shifted else windows)[0, :, :, 0].tolist()
    seen = cut.shifted_seen if shifted else cut.seen
    sees = {
        (a, b)
        for p, row in enumerate(windows)
        for i, a in enumerate(row)
        for j, b in enumerate(row)
        if a and b and (seen is None or seen[p, i, j])
    }
    at = [place(token, window, shifts, cut.padded) for token in tokens]
    assert sees == {(a + 1, b + 1) for a, b in product(range(len(tokens)), repeat=2) if at[a] == at[b]}
    # and nobody sees padding, though everything sees something
    for p, row in enumerate(windows):
        for i, j in product(range(len(row)), repeat=2):
            if seen is None:
                assert all(row)
            elif bool(row[i]) != bool(row[j]):
                assert not seen[p, i, j]
            assert seen is None or seen[p, i, i]


@pytest.mark.parametrize(("grid", "window"), CASES)
def test_there_and_back(grid, window):
    cut = window_grid(grid, window, CPU)
    x = torch.randn(2, *grid, 3)
    windows = cut.partition(x)
    assert windows.shape[2] == window[0] * window[1] * window[2]
    assert torch.equal(cut.unpartition(windows), x)
    assert torch.equal(cut.unshift(cut.shift(windows)), windows)
    first = windows[:, 0].reshape(2, *window, 3)
    f, h, w = (min(a, b) for a, b in zip(grid, window))
    assert torch.equal(first[:, :f, :h, :w], x[:, :f, :h, :w])


@pytest.mark.parametrize("proxy", [(2, 4, 4), (2, 2, 2), (1, 1, 2)])
@pytest.mark.parametrize("grid", [(2, 4, 8), (3, 3, 5)])
def test_means_are_of_every_rth_row_and_column(grid, proxy):
    """All frames of the window, whatever the proxy's."""
    window = (2, 4, 4)
    cut = window_grid(grid, window, CPU)
    x = torch.randn(1, *grid, 3)
    means, some = cut.window_means(cut.partition(x), proxy)
    r, c = 4 // proxy[1], 4 // proxy[2]
    expected = []
    for f, h, w in product(*(range(0, p, s) for p, s in zip(cut.padded, window))):
        for i, j in product(range(r), range(c)):
            members = x[0, f : f + 2, h + i : h + 4 : r, w + j : w + 4 : c].reshape(-1, 3)
            expected.append(members.mean(0) if len(members) else None)
    assert [e is not None for e in expected] == ([True] * len(expected) if some is None else some.tolist())
    for mean, e in zip(means[0], expected, strict=True):
        torch.testing.assert_close(mean, torch.zeros(3) if e is None else e)


def test_bias_hides():
    seen = torch.tensor([[[True, False], [True, True]]])
    bias = attention_bias(seen, torch.zeros(3, 1, dtype=torch.bfloat16))
    assert bias.shape == (3, 1, 2, 2) and bias.dtype == torch.bfloat16
    assert torch.equal(bias == 0, seen[:, None].expand(3, 1, 2, 2)) and bias[~(bias == 0)].isneginf().all()
    assert attention_bias(torch.tensor([True, False]), torch.zeros(3, 1)).tolist() == [[[[0.0, float("-inf")]]]]
    assert attention_bias(None, torch.zeros(1)) is None


def test_tables_are_where_they_are_needed_and_fit_for_training():
    window_grid.cache_clear()
    with torch.inference_mode():
        cut = window_grid((1, 4, 4), (1, 2, 2), CPU)
    x = torch.randn(1, 4, 4, 3, requires_grad=True)
    cut.shift(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert window_grid((1, 4, 4), (1, 2, 2), torch.device("meta")).shifted.is_meta
