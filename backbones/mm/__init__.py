"""What MMEngine, MMPretrain, MMDetection and MMSegmentation need to train with the zoo's models.

A config imports it: ``custom_imports = dict(imports=["backbones.mm"], allow_failed_imports=False)``. It registers the
backbone, layer-wise decay and iLLaMA's soft mask; the zoo's own data, hooks and checks are in
:mod:`backbones.mm.training`.
"""

from .backbone import ZooBackbone
from .compat import leave_out_multimodal_models
from .layer_decay import LayerDecayConstructor
from .operators import activate
from .soft_mask import SoftMaskHook

# Before MMPretrain, MMDetection or MMSegmentation is imported; nothing above imports one.
activate()
leave_out_multimodal_models()

__all__ = ["LayerDecayConstructor", "SoftMaskHook", "ZooBackbone"]
