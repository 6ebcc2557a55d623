"""Paths, times and the loss against their formulas."""

import pytest
import torch

from backbones.diffusion import add_noise, draw_times, flow_loss, resolution_shift, shift_times


@pytest.mark.parametrize(
    ("size", "shift"),
    [
        ((512, 512), 1),
        ((1024, 1024), 2),
        ((256, 256), 0.5),
        ((256, 1024), 1),
        ((512, 512, 17), 5**0.5),
        ((512, 512, 34), 10**0.5),
        ((512, 512, 16), 1),
    ],
)
def test_shift_grows_with_the_side(size, shift):
    assert resolution_shift(*size) == pytest.approx(shift)


def test_shifted_times():
    times = torch.tensor([0.0, 250, 500, 1000])
    torch.testing.assert_close(shift_times(times, 2), torch.tensor([0, 400, 2000 / 3, 1000]))
    torch.testing.assert_close(shift_times(shift_times(times, 3), 1 / 3), times)
    for shift in (0, -1):
        with pytest.raises(ValueError, match="above 0"):
            shift_times(times, shift)


@pytest.mark.parametrize(("shift", "quantiles"), [(1.0, (268.94, 500, 731.06)), (2.0, (423.88, 666.67, 844.64))])
def test_times_are_logit_normal(shift, quantiles):
    times = draw_times(200_000, shift, torch.Generator().manual_seed(0))
    # one standard deviation below the median, the median, and one above
    found = times.quantile(torch.tensor([0.158655, 0.5, 0.841345]))
    torch.testing.assert_close(found, torch.tensor(quantiles), rtol=0, atol=2.5)
    assert times.min() > 0 and times.max() < 1000


def test_paths_are_straight():
    data, noise = torch.randn(2, 3, 1, 2, 2).unbind(0)
    mixed = add_noise(data, noise, torch.tensor([0.0, 250.0, 1000.0]))
    torch.testing.assert_close(mixed, torch.stack([data[0], 0.75 * data[1] + 0.25 * noise[1], noise[2]]))


def test_loss_is_that_of_the_velocity_towards_the_data():
    data, noise = torch.randn(2, 3, 1, 4, 2, 2).unbind(0)  # videos
    times = torch.tensor([100.0, 500.0, 900.0])
    seen = []

    def right(x, t):
        seen.append((x, t))
        return data - noise

    assert flow_loss(right, data, noise, times).tolist() == [0, 0, 0]
    torch.testing.assert_close(seen[0], (add_noise(data, noise, times), times))
    off = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(flow_loss(lambda x, t: data - noise + off, data, noise, times), off.flatten() ** 2)
