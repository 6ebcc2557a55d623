"""Efficient vision transformer backbones; importing this package registers every model with timm."""

from backbones.inference import optimize
from backbones.models import create_model, list_models

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "optimize"]
