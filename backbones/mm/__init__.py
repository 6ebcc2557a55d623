"""What MMEngine, MMPretrain, MMDetection and MMSegmentation need to train with the zoo's models.

A config imports it: ``custom_imports = dict(imports=["backbones.mm"], allow_failed_imports=False)``. It registers the
backbone, layer-wise decay, iLLaMA's soft mask and MoH's load balancing; the zoo's own data, hooks and checks are in
:mod:`backbones.mm.training`.
"""

from .backbone import ZooBackbone
from .compat import leave_out_multimodal_models
from .head_balance import HeadBalanceHook
from .layer_decay import LayerDecayConstructor
from .operators import activate
from .soft_mask import SoftMaskHook

# Before MMPretrain, MMDetection or MMSegmentation is imported; nothing above imports one.
activate()
leave_out_multimodal_models()

__all__ = ["HeadBalanceHook", "LayerDecayConstructor", "SoftMaskHook", "ZooBackbone"]
