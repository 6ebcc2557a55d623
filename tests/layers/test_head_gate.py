"""Mixture-of-head gates against their formula, and the load-balancing loss of one call."""

import pytest
import torch
from torch import nn

from backbones.layers import HeadGate
from backbones.layers.functional import balance_loss, call_with_balance


def test_equals_its_formula() -> None:
    torch.manual_seed(0)
    gate, x = HeadGate(8, 5, shared=2, top_k=2), torch.randn(3, 4, 8)
    gates, routing = gate(x)
    assert gates.shape == (3, 4, 5) and routing.shape == (3, 4, 3)
    for token, found in zip(x.flatten(0, 1), gates.flatten(0, 1), strict=True):
        g = gate.wg(token).softmax(0)
        kept = sorted(range(3), key=lambda i: -g[i])[:2]
        total = sum(g[i] for i in kept)
        w = gate.wg_0(token).softmax(0) * 2
        routed = [w[1] * 2 * g[i] / total if i in kept else torch.tensor(0.0) for i in range(3)]
        torch.testing.assert_close(found, torch.cat([w[0] * 2 * gate.wg_1(token).softmax(0), torch.stack(routed)]))


def test_without_routed_heads_it_weighs_all() -> None:
    torch.manual_seed(0)
    gate, x = HeadGate(8, 3, shared=3, top_k=0), torch.randn(2, 8)
    gates, routing = gate(x)
    assert routing is None
    torch.testing.assert_close(gates, gate.wg_1(x).softmax(-1) * 3)


@pytest.mark.parametrize(("shared", "top_k"), [(0, 2), (2, 0), (2, 3), (4, 1)])
def test_impossible_choices_are_refused(shared: int, top_k: int) -> None:
    with pytest.raises(ValueError, match=f"of 4 heads, {shared} shared, .* top_k {top_k} from"):
        HeadGate(8, 4, shared, top_k)


def test_balance_is_top_k_if_heads_are_used_alike() -> None:
    routing = torch.full((4, 4), 0.25)
    chosen = torch.eye(4) + torch.eye(4).roll(1, 0)  # every head by two of the four tokens
    torch.testing.assert_close(balance_loss(chosen, routing), torch.tensor(2.0))
    one_sided = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).expand(4, 4)
    assert balance_loss((one_sided > 0.5).float(), one_sided) > 1


def test_the_loss_is_of_one_call_alone() -> None:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = HeadGate(8, 4, 1, 2)

        def forward(self, x):
            return self.gate(x)[0].sum()

    first, second, x = Model(), Model(), torch.randn(5, 8)
    first(x), second(x)  # leave nothing behind
    result, loss = call_with_balance(first, x)
    torch.testing.assert_close(result, first(x))
    torch.testing.assert_close(loss, balance_loss(*first.gate(x)))
    torch.testing.assert_close(call_with_balance(second, x)[1], balance_loss(*second.gate(x)))
    torch.testing.assert_close(call_with_balance(first, x)[1], loss)
    loss.backward()
    assert first.gate.wg.weight.grad.any() and second.gate.wg.weight.grad is None


def test_models_without_gates_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no gated heads"):
        call_with_balance(nn.Linear(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="no gate of HeadGate routed"):
        call_with_balance(HeadGate(8, 3, 3, 0), torch.zeros(8))
