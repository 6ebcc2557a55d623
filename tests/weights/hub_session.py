"""Run by test_hub.py with HF_ENDPOINT set: push a model to a hub and load it back, with an empty cache."""

import sys

import timm
import torch

import backbones  # noqa: F401
from backbones.weights.fetch import fetch

torch.manual_seed(0)
model = timm.create_model("test_litv2", num_classes=10, attn_window_size=4, in_chans=1).eval()
x = torch.randn(1, 1, 64, 64)
timm.models.push_to_hf_hub(model, "someone/digits", safe_serialization=True, token="none")
loaded = timm.create_model("hf-hub:someone/digits", pretrained=True).eval()
with torch.inference_mode():
    assert torch.equal(loaded(x), model(x))
print("pushed and loaded", loaded.num_classes, loaded.in_chans, loaded.cfg.attn_window_size)

file = fetch("hf-hub:someone/digits")
print("fetched", file.name, fetch("https://huggingface.co/someone/digits/resolve/main/config.json").name)
overlay = {"hf_hub_id": "someone/digits", "num_classes": 10, "input_size": (1, 96, 96)}
tagged = timm.create_model("test_litv2", pretrained=True, pretrained_cfg_overlay=overlay, attn_window_size=4).eval()
with torch.inference_mode():
    assert torch.equal(tagged(x), model(x))
print("converted", tagged.pretrained_cfg["file"].rpartition("/")[2])
try:
    fetch("hf-hub:someone/absent#file=a.pth")
except OSError as error:
    print("absent", type(error).__name__)
sys.stdout.flush()
