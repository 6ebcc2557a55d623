"""PT-DiT: the released code's values, conditioning, sizes, features, mistakes."""

import numpy as np
import pytest
import torch

from backbones.models.ptdit import PTDiT
from backbones.weights import convert_state_dict
from tests.reference_values import assert_matches, load_reference, official_state_dict

REFERENCES = ("ptdit_tiny_image_w8_p8", "ptdit_tiny_image_w8_p4", "ptdit_tiny_video_w244")


@pytest.mark.parametrize("name", REFERENCES)
def test_values_of_the_released_code(name: str) -> None:
    reference = load_reference(name)
    model = PTDiT.from_official_config(reference["config"]).eval()
    model.load_state_dict(convert_state_dict(official_state_dict(reference), model))
    assert sum(p.numel() for p in model.parameters()) == reference["params"]
    state = np.random.RandomState(0)
    x, text = (
        torch.from_numpy(state.standard_normal(reference[key]).astype(np.float32))
        for key in ("input_shape", "text_shape")
    )
    times, mask = torch.tensor(reference["timesteps"]), torch.tensor(reference["text_mask"])
    with torch.no_grad():
        output = model(x, times, context=text[:, 0], context_mask=mask)
        maps = model.forward_intermediates(
            x, output_fmt="NHWC", intermediates_only=True, timesteps=times, context=text[:, 0], context_mask=mask
        )
        embedded = model.stem(x)
    recorded = reference["outputs"]
    assert_matches(output, recorded["output (B, C_out, F, H, W)"])
    assert_matches(embedded.flatten(0, 1).flatten(1, 2), recorded["pos_embed"])
    windows = tuple(reference["config"]["compress_ratios"])
    for key, y in (("block0", maps[0]), ("last_block", maps[-1])):
        f, h, w = (side // size for side, size in zip(y.shape[1:4], windows, strict=True))
        y = y.unflatten(3, (w, -1)).unflatten(2, (h, -1)).unflatten(1, (f, -1)).permute(0, 1, 3, 5, 2, 4, 6, 7)
        assert_matches(y.flatten(0, 3).flatten(1, 3), recorded[key])
