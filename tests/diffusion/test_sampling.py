"""Guidance and solvers: their formulas, their order, and what seeds promise."""

import pytest
import torch

import backbones
from backbones.diffusion import Guidance, draw_noise, drop_labels, generate, sample, shift_times
from tests.tiny_encoders import awaken


class Recorder(torch.nn.Module):
    """Predicts its class, in one channel more than it reads."""

    def forward(self, x, times, y):
        self.seen = (x, times, y)
        out = y.view(-1, 1, 1, 1).expand(x.shape).float()
        return torch.cat([out, 100 + out[:, :1]], dim=1)


def test_guidance_exaggerates_the_condition():
    model, x, times = Recorder(), torch.randn(2, 1, 4, 4), torch.tensor([300.0, 300.0])
    guided = Guidance(model, {"y": torch.tensor([3, 5])}, {"y": torch.tensor([10, 10])}, scale=4)
    expected = torch.tensor([10 + 4 * (3 - 10), 10 + 4 * (5 - 10)]).view(2, 1, 1, 1).expand_as(x).float()
    torch.testing.assert_close(guided(x, times), expected)
    assert model.seen[2].tolist() == [3, 5, 10, 10]  # the conditional half first
    assert torch.equal(model.seen[0], torch.cat([x, x])) and len(model.seen[1]) == 4


def test_without_guidance_one_pass_is_enough():
    model, x = Recorder(), torch.randn(2, 1, 4, 4)
    guided = Guidance(model, {"y": torch.tensor([3, 5])}, {"y": torch.tensor([10, 10])}, scale=1)
    assert guided(x, torch.zeros(2))[:, 0, 0, 0].tolist() == [3, 5] and len(model.seen[0]) == 2


def test_labels_are_dropped_at_their_rate():
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(2000)
    dropped = drop_labels(labels, 10, 0.1)
    assert (dropped == 10).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped[dropped < 10], labels[dropped < 10])
    assert torch.equal(drop_labels(labels, 10, 0.0), labels)


def gaussian_velocity(mean: float, std: float):
    """Of data from a normal distribution, where the way from noise to data is known: mean + std * noise."""

    def velocity(x, times):
        t = (times / 1000).view(-1, 1)
        gain = ((1 - t) * std**2 - t) / ((1 - t) ** 2 * std**2 + t**2)
        return mean + gain * (x - (1 - t) * mean)

    return velocity


def error(solver: str, steps: int, shift: float = 1.0) -> float:
    noise = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return (sample(gaussian_velocity(2, 0.3), noise, steps, shift, solver) - (2 + 0.3 * noise)).abs().max().item()


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_solvers_arrive(shift):
    errors = {steps: error("euler", steps, shift) for steps in (32, 64, 256)}
    assert 0.4 * errors[32] < errors[64] < 0.6 * errors[32] and errors[256] < 0.02  # first order
    assert error("dpm", 32, shift) < 0.25 * errors[32] and error("dpm", 256, shift) < 0.005


@pytest.mark.parametrize("solver", ["euler", "dpm"])
def test_a_straight_way_needs_one_step(solver):
    data, noise = torch.randn(2, 3, 1, 4, 4).unbind(0)
    # the second order starts a thousandth before pure noise
    torch.testing.assert_close(sample(lambda x, t: data - noise, noise, 1, 1.0, solver), data, rtol=0, atol=0.01)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_euler_steps_at_the_times_of_the_release(shift):
    times = []
    sample(lambda x, t: times.append(t) or x, torch.randn(2, 1), 5, shift)
    expected = shift_times(torch.tensor([1000.0, 800, 600, 400, 200]), shift)
    torch.testing.assert_close(torch.stack(times), expected[:, None].expand(5, 2))


@pytest.mark.parametrize("options", [dict(steps=0), dict(solver="heun")])
def test_mistakes(options):
    with pytest.raises(ValueError, match="at least one step of dpm, euler"):
        sample(lambda x, t: x, torch.zeros(1, 1), **options)


def test_noise_is_of_the_seed_and_the_number():
    several, single = draw_noise((2, 4), 7, [0, 1, 2]), draw_noise((2, 4), 7, [1])
    assert torch.equal(several[1], single[0])
    assert len({tuple(n.flatten().tolist()) for n in (*several, *draw_noise((2, 4), 8, [0, 1, 2]))}) == 6


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = backbones.create_model("test_ptdit", in_chans=1, num_classes=10, depth=2, window_size=(1, 2, 2)).eval()
    return awaken(model)


def draw(model, labels, **options):
    condition, empty = {"y": torch.tensor(labels)}, {"y": torch.tensor([10])}
    return generate(model, (1, 8, 8), condition, empty, steps=4, **options)


@pytest.mark.parametrize("solver", ["euler", "dpm"])
def test_samples_do_not_depend_on_the_batch(model, solver):
    labels = [3, 1, 4, 1, 5]
    together = draw(model, labels, guidance=2.0, seed=1, solver=solver)
    torch.testing.assert_close(draw(model, labels, guidance=2.0, seed=1, batch_size=2, solver=solver), together)
    assert torch.equal(draw(model, labels, guidance=2.0, seed=1, solver=solver), together)
    assert (together[1] - together[3]).abs().max() > 0.5  # one label, two numbers
    assert (draw(model, labels, guidance=2.0, seed=2, solver=solver) - together).abs().max() > 0.5


def test_labels_and_guidance_make_a_difference(model):
    base = draw(model, [3, 3])
    assert (draw(model, [3, 4]) - base)[1].abs().max() > 1e-3 and torch.equal(draw(model, [3, 4])[0], base[0])
    assert (draw(model, [3, 3], guidance=4.0) - base).abs().max() > 1e-3
