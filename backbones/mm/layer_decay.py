"""Layer-wise learning-rate decay for any model of the zoo, in any of the OpenMMLab libraries."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from timm.models._manipulate import group_with_matcher
from torch import nn

from .backbone import ZooBackbone

__all__ = ["LayerDecayConstructor"]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Lower learning rates towards the image: ``lr * rate ** k`` for the k-th layer before the head.

    ``optim_wrapper = dict(constructor="LayerDecayConstructor", paramwise_cfg=dict(layer_decay_rate=0.7, ...))``. Layers
    are those of the model's ``group_matcher``: the stem is one, and so is each block, a stage's downsampling with its
    first block, its norm with its last. The last block has k = 1. Neck, heads, output norms and classifier, which start
    afresh, have the full rate.

    All other rules of ``paramwise_cfg`` (``norm_decay_mult``, ``flat_decay_mult``, ``custom_keys``, ...) hold as in
    MMEngine; the ``lr_mult`` of a custom key and the layer's factor multiply. What the model's ``no_weight_decay``
    names isn't decayed, unless a custom key gives it a ``decay_mult``. Source: arXiv:2003.10555 (ELECTRA), as
    arXiv:2203.16527 (ViTDet) uses it.

    Raises:
        ValueError: ``layer_decay_rate`` is missing or not in (0, 1], the optimizer has no ``lr``, or the model has no
            :class:`ZooBackbone`.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(
                f"layer_decay_rate is {rate}: give a number above 0 and up to 1, "
                "paramwise_cfg=dict(layer_decay_rate=0.7)"
            )
        if self.base_lr is None:
            raise ValueError("layer-wise decay needs a learning rate to lower: give optimizer=dict(lr=...)")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module=None) -> None:
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # MMEngine calls this for every submodule; only the whole model's call sees all groups
            return
        found = [m for m in module.modules() if isinstance(m, ZooBackbone)]
        if not found:
            raise ValueError("layer-wise decay needs a ZooBackbone in the model: use another constructor")
        factors: dict[nn.Parameter, float] = {}
        undecayed: set[nn.Parameter] = set()
        for model in (backbone.model for backbone in found):
            factors |= layer_factors(model, self.paramwise_cfg["layer_decay_rate"])
            named = dict(model.named_parameters())
            names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # not all of timm's have it
            undecayed |= {named[name] for name in names if name in named}
        for group in params:
            (parameter,) = group["params"]
            group.setdefault("lr", self.base_lr)
            group["lr"] *= factors.get(parameter, 1.0)
            if parameter in undecayed and "decay_mult" not in group:
                group["weight_decay"] = 0.0


def layer_factors(model: nn.Module, rate: float) -> dict[nn.Parameter, float]:
    """What the learning rate of each parameter of a timm model is multiplied by."""
    # What no pattern matches, as classifiers don't, is the last group; without one, a stand-in keeps its place.
    stand_in = "the head"
    named = [*model.named_parameters(), (stand_in, None)]
    layers = group_with_matcher(named, model.group_matcher(), reverse=True)
    return {parameter: rate ** (layers[stand_in] - layers[name]) for name, parameter in model.named_parameters()}
