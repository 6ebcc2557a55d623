"""OpenVINO's direct conversion: its program gives the model's outputs at the size of the example."""

import openvino
import pytest
import torch

from backbones.deploy.export import difference
from tests.every_module import lively
from tests.test_models import TINY, images

pytestmark = [
    pytest.mark.clients,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
]


@pytest.mark.parametrize("name", TINY)
def test_direct_conversion(name: str) -> None:
    model, x = lively(name).eval(), images()
    program = openvino.convert_model(model, example_input=x)
    # in float32, which it does not choose by itself where the CPU has bfloat16
    compiled = openvino.compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(compiled([x.numpy()])[0].copy())
    with torch.no_grad():
        assert difference([model(x)], [found]) < model.export_tolerance
