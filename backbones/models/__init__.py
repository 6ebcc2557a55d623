"""One file a family; importing this package registers every variant with timm."""

from backbones.models import attnet, davit, halonet, illama, litv2, ptdit, sgformer, stvit, van
from backbones.models._registry import create_model, list_models

__all__ = [
    "create_model",
    "list_models",
    "attnet",
    "davit",
    "halonet",
    "illama",
    "litv2",
    "ptdit",
    "sgformer",
    "stvit",
    "van",
]
