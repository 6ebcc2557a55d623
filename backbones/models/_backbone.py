"""What every model has, whatever its shape: initialisation in one order, and what ``backbones.weights`` asks of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from backbones.weights import Layout
from backbones.weights.convert import ENTRIES


class Backbone(nn.Module):
    """Modules in ``stages``, published checkpoints, and an initialisation."""

    stages: nn.Module
    feature_info: list[dict[str, Any]]

    checkpoint_layouts: Mapping[str, Layout] = {}  # see ``backbones.weights.layouts``
    checkpoint_dims: Mapping[str, Mapping[str, int]] = {}
    checkpoint_entries: tuple[str, ...] = ENTRIES
    export_tolerance = 1e-4  # how far an exported file may differ from the model, as a share of the logits' spread
    int8_float_layers: tuple[str, ...] = ()  # patterns of modules, "stages.*.attn.proj", that int8 files keep in float

    def adapt_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize entries that depend on image size to the model's; called on a checkpoint already in its names."""
        return state_dict

    def init_module(self, module: nn.Module) -> None:
        """Initialise one module as the family's authors did; called for every module, children before parents."""

    def init_weights(self) -> None:
        """Draw fresh weights, buffers included: every module's ``reset_parameters``, then the family's ``init_module``.

        Both go from children to parents, so that what a parent says of its children holds. A model on the meta device
        has nothing to draw: call this after ``to_empty``.
        """
        if any(p.is_meta for p in self.parameters()):
            return

        def reset(module: nn.Module) -> None:
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()

        self.apply(reset)
        self.apply(self.init_module)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, beyond norms and biases."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in self.stages.children():
            stage.grad_checkpointing = enable


def check_output_fmt(output_fmt: str, known: tuple[str, ...]) -> None:
    """Refuse a format of ``forward_intermediates`` that a model does not have.

    Raises:
        ValueError: If ``output_fmt`` is not among ``known``.
    """
    if output_fmt not in known:
        raise ValueError(f"output_fmt is {output_fmt!r}, none of {', '.join(map(repr, known))}")
