"""AttNet: equal to the official values, key layout, the family's own."""

import pytest
import torch
from torch import nn

import backbones
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict, reference_input

REFERENCES = ["attnet_xxs", "attnet_xxs_200x264", "attnet_t1"]


def tiny(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbones.create_model("test_attnet", num_classes=7, **kwargs)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_official_values(name: str) -> None:
    reference = load_reference(name)
    model = backbones.create_model(reference["variant"].lower()).eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    with torch.no_grad():
        last, maps = model.forward_intermediates(reference_input(reference))
        logits = model.forward_head(last)
    outputs = {f"stage{i} (B, C, H, W)": y for i, y in enumerate(maps)}
    outputs["logits (B, num_classes)"] = logits
    assert outputs.keys() == reference["outputs"].keys()
    for key, recorded in reference["outputs"].items():
        assert_matches(outputs[key], recorded)
    assert sum(p.numel() for p in model.parameters()) == reference["params"]
