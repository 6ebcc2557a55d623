"""iLLaMA's soft mask as a hook."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from backbones.models.illama import ILLaMA, soft_mask_rate

__all__ = ["SoftMaskHook"]


@HOOKS.register_module()
class SoftMaskHook(Hook):
    """Move the attention of an iLLaMA from bidirectional to causal over the first epochs, before each iteration.

    The rate follows from the iteration alone, so a resumed run goes on where it was. Validation uses the rate of the
    last iteration, as the authors' training does.

    Args:
        schedule: "constant" or "linear", see :func:`backbones.models.illama.soft_mask_rate`.
        cutoff_epoch: epochs until the mask is causal.

    Raises:
        ValueError: an unknown schedule, a cut-off below one epoch, or a model without an iLLaMA in it.
    """

    def __init__(self, schedule: str = "linear", cutoff_epoch: int = 50) -> None:
        soft_mask_rate(0.0, schedule)  # an unknown schedule raises here
        if cutoff_epoch < 1:
            raise ValueError(
                f"cutoff_epoch is {cutoff_epoch}, below 1: leave the hook out for a causal mask throughout"
            )
        self.schedule = schedule
        self.cutoff_epoch = cutoff_epoch

    def before_train(self, runner) -> None:
        self.models = [module for module in runner.model.modules() if isinstance(module, ILLaMA)]
        if not self.models:
            raise ValueError("SoftMaskHook found no iLLaMA in the model: remove it from custom_hooks")

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        rate = soft_mask_rate(runner.iter / (self.cutoff_epoch * len(runner.train_dataloader)), self.schedule)
        for model in self.models:
            model.set_soft_mask_rate(rate)
