"""One file a family; importing this package registers every variant with timm."""

from backbones.models._registry import create_model, list_models
from backbones.models.attnet import AttNet, AttNetConfig
from backbones.models.davit import DaViT, DaViTConfig
from backbones.models.halonet import HaloNet, HaloNetConfig
from backbones.models.illama import ILLaMA, ILLaMAConfig
from backbones.models.litv2 import LITv2, LITv2Config
from backbones.models.nat import NAT, DiNATS, NATConfig
from backbones.models.ptdit import PTDiT, PTDiTConfig
from backbones.models.sgformer import SGFormer, SGFormerConfig
from backbones.models.stvit import STViT, STViTConfig
from backbones.models.transnext import MoHViT, TransNeXt, TransNeXtConfig
from backbones.models.van import VAN, VANConfig

__all__ = [
    "AttNet",
    "AttNetConfig",
    "DaViT",
    "DaViTConfig",
    "HaloNet",
    "HaloNetConfig",
    "ILLaMA",
    "ILLaMAConfig",
    "LITv2",
    "LITv2Config",
    "NAT",
    "DiNATS",
    "NATConfig",
    "PTDiT",
    "PTDiTConfig",
    "SGFormer",
    "SGFormerConfig",
    "STViT",
    "STViTConfig",
    "MoHViT",
    "TransNeXt",
    "TransNeXtConfig",
    "VAN",
    "VANConfig",
    "create_model",
    "list_models",
]
