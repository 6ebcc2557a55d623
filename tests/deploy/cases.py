"""Small models of every task, as tests/deploy exports them."""

from collections import Counter
from pathlib import Path

import torch
from torch import nn

from tests.every_module import SHALLOW
from tests.test_models import ANY_SIZE

ROOT = Path(__file__).resolve().parents[2]

# Of models whose family has another's configs.
FOLDERS = {"test_dinat": "nat", "test_dinat_s": "nat", "test_moh": "transnext"}


def network(name: str, base: str) -> nn.Module:
    """MMSegmentation's or MMDetection's network of ``configs/_base_/models`` around a shallow model, random weights."""
    from mmengine.registry import MODELS, init_default_scope

    from backbones.mm import ZooBackbone
    from backbones.mm.training.run import load_config

    model = load_config(ROOT / f"configs/_base_/models/{base}.py").model
    init_default_scope("mmseg" if "decode_head" in model else "mmdet")
    options = {**ANY_SIZE.get(name, {}), **SHALLOW.get(name, {})}
    if name == "test_illama":
        options.pop("depths")  # a map is of a block
    model.backbone.update(model=name, pretrained=False, **options)
    widths = ZooBackbone(name, **options).out_channels
    if "neck" in model:
        model.neck.in_channels = widths
    else:
        model.decode_head.in_channels = widths
        model.auxiliary_head.in_channels = widths[2]
    torch.manual_seed(0)
    return MODELS.build(model).eval()


def segmentation_base(name: str) -> str:
    """UPerNet or Semantic FPN, whichever the family's configs have."""
    family = FOLDERS.get(name, name.removeprefix("test_"))
    upernets = any(ROOT.glob(f"configs/{family}/segmentation/*upernet*_ade20k*.py"))
    return "upernet_digits" if upernets else "semfpn_digits"


def int8_layers(path: Path) -> int:
    """Layers of a file whose weight has eight bits."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        small = {w.name for w in graph.initializer if w.data_type == onnx.TensorProto.INT8 and w.dims}
        used = Counter(name for node in graph.node for name in set(node.input) & small)
        return sum(used[name] > 0 and not name.endswith("zero_point") for name in small)
    if path.suffix == ".xml":
        import openvino

        constants = [op for op in openvino.Core().read_model(path).get_ops() if op.get_type_name() == "Constant"]
        weights = [op for op in constants if len(op.get_output_shape(0)) > 1]
        return sum(op.get_element_type().get_type_name() in ("i8", "u8") for op in weights)
    nodes = torch.export.load(str(path)).graph.nodes
    return sum("dequantize" in str(n.target) and n.args[0].op == "placeholder" for n in nodes)
