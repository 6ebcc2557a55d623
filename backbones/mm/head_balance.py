"""Load balancing of gated heads as a hook."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from backbones.layers import HeadGate
from backbones.layers.functional import call_with_balance

__all__ = ["HeadBalanceHook"]


@HOOKS.register_module()
class HeadBalanceHook(Hook):
    """Adds ``loss_balance`` to the losses of a model whose heads are gated (MoH), while it trains.

    Args:
        weight: of the load-balancing loss.

    Raises:
        ValueError: a model without gates.
    """

    def __init__(self, weight: float = 0.01) -> None:
        self.weight = weight

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not any(isinstance(module, HeadGate) for module in model.modules()):
            raise ValueError("HeadBalanceHook found no gated heads in the model: remove it from custom_hooks")
        loss = model.loss

        def loss_with_balance(*args: Any, **kwargs: Any) -> dict[str, Any]:
            losses, balance = call_with_balance(model, *args, call=loss, **kwargs)
            return {**losses, "loss_balance": self.weight * balance}

        model.loss = loss_with_balance
        self.model = model

    def after_train(self, runner) -> None:
        del self.model.loss  # the class's own is in use again
