"""Mixture-of-head gates (Jin et al., "MoH", arXiv:2410.11842): each token chooses the heads it listens to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn


@register_notrace_module
class HeadGate(nn.Module):
    """Weights of the heads for each token: the first ones are always on, of the others the best ``top_k``.

    x: (..., dim) -> gates (..., nh), routing (..., nh - shared), the routed heads' softmax before the choice. Gates
    multiply what the heads give, before it is projected. They are softmaxes times the number of heads that they
    are of, and a softmax of two numbers, times 2, weighs the shared heads against the routed ones.
    Cost: dim * (nh + 2) a token. Heads that a token does not keep are computed all the same: on a CPU, gathering the
    tokens of each head, and their rows of the position bias, takes longer than it saves (docs/families/transnext.md).

    Args:
        dim: Channels.
        num_heads: Heads.
        shared: Heads that are on for every token; all of them if ``top_k`` is 0.
        top_k: Routed heads that are on.

    Raises:
        ValueError: If no head is shared, or ``top_k`` is not from 1 to the number of routed heads (0 if there is none).
    """

    def __init__(self, dim: int, num_heads: int, shared: int, top_k: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        routed = num_heads - shared
        if shared < 1 or not min(routed, 1) <= top_k <= routed:
            raise ValueError(f"of {num_heads} heads, {shared} shared, {routed} are left to choose top_k {top_k} from")
        self.shared = shared
        self.top_k = top_k
        self.wg = nn.Linear(dim, routed, bias=False, **dd) if top_k else None
        self.wg_0 = nn.Linear(dim, 2, bias=False, **dd) if top_k else None
        self.wg_1 = nn.Linear(dim, shared, bias=False, **dd)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        shared = self.wg_1(x).softmax(-1) * self.shared
        if self.wg is None or self.wg_0 is None:
            return shared, None
        routing = self.wg(x).softmax(-1)
        kept, heads = routing.topk(self.top_k, dim=-1)
        kept = kept / kept.sum(-1, keepdim=True) * self.top_k
        routed = torch.zeros_like(routing).scatter(-1, heads, kept)
        balance = self.wg_0(x).softmax(-1) * 2
        return torch.cat([balance[..., :1] * shared, balance[..., 1:] * routed], dim=-1), routing


def gate_heads(gate: HeadGate | None, x: Tensor, y: Tensor) -> Tensor:
    """Weigh what the heads of an attention give by the gates of its input; without a gate, nothing is done.

    x: (..., dim), y: (..., nh * d) -> (..., nh * d)
    """
    if gate is None:
        return y
    gates, _ = gate(x)
    return (y.unflatten(-1, (gates.shape[-1], -1)) * gates.unsqueeze(-1)).flatten(-2)


def balance_loss(gates: Tensor, routing: Tensor) -> Tensor:
    """How unequally the tokens use the routed heads: ``top_k`` if equally, more if not (a scalar).

    Over the routed heads, the mean of the gate before the choice times the share of tokens that keep the head, times
    the squared number of heads. Only the first factor has a gradient.

    Args:
        gates: (..., nh), of :class:`HeadGate`.
        routing: (..., routed heads), of the same call.
    """
    heads = routing.shape[-1]
    used = (gates[..., -heads:] > 0).to(routing.dtype).flatten(0, -2).mean(0)
    return (routing.flatten(0, -2).mean(0) * used).mean() * heads**2


@contextmanager
def _record_losses(model: nn.Module) -> Iterator[list[Tensor]]:
    losses: list[Tensor] = []

    def record(module: nn.Module, args: Any, result: tuple[Tensor, Tensor | None]) -> None:
        gates, routing = result
        if routing is not None:
            losses.append(balance_loss(gates, routing))

    handles = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, HeadGate)]
    if not handles:
        raise ValueError(f"{type(model).__name__} has no gated heads, so there is no load to balance")
    try:
        yield losses
    finally:
        for handle in handles:
            handle.remove()


def call_with_balance(model: nn.Module, *args: Any, call: Callable[..., Any] | None = None, **kwargs: Any) -> tuple:
    """``model(*args)``, and the mean load-balancing loss of its gates in this call: (result, loss).

    The loss is that of this call alone, of whatever thread or copy of the model; add 0.01 of it to the task's loss.

    Args:
        model: Any model with :class:`HeadGate` modules that route.
        *args: What the model takes.
        call: What to call instead of the model.
        **kwargs: Likewise.

    Raises:
        ValueError: If the model has no gates, or none that routes.
    """
    with _record_losses(model) as losses:
        result = (call or model)(*args, **kwargs)
    if not losses:
        raise ValueError(f"no gate of {type(model).__name__} routed: all heads are shared, or no gate was called")
    return result, torch.stack(losses).mean()
