"""Features of a frozen model on the files of a folder, computed once and kept as safetensors."""

import hashlib
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.evaluation.encoder import Encoder
from backbones.evaluation.folder import Split
from backbones.weights.pretrained import read_metadata, save_weights

__all__ = ["GRID", "extract_features"]

GRID = 16  # side of the largest maps that are kept


def compute_features(encoder: Encoder, split: Split, level: int, batch_size: int = 64) -> Tensor:
    """Maps of all files, (n, h, w, C) on the CPU; larger ones are averaged to ``GRID`` positions a side."""
    from tqdm import tqdm

    maps = []
    with torch.inference_mode(), tqdm(total=len(split.files), desc=encoder.title, unit="image", delay=2) as bar:
        for start in range(0, len(split.files), batch_size):
            files = split.files[start : start + batch_size]
            x = encoder.maps(encoder.read(files), level).float()
            h, w = min(x.shape[1], GRID), min(x.shape[2], GRID)
            if (h, w) != tuple(x.shape[1:3]):
                x = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (h, w)).permute(0, 2, 3, 1)
            maps.append(x.cpu())
            bar.update(len(files))
    return torch.cat(maps)


def extract_features(
    encoder: Encoder, split: Split, level: int, cache_dir: str | os.PathLike | None = None, batch_size: int = 64
) -> Tensor:
    """``compute_features``, or what an earlier call kept of the same model, weights, data, level and size.

    Args:
        encoder: The model.
        split: Files.
        level: A level of the model's.
        cache_dir: Folder of the kept features; None keeps nothing.
        batch_size: Images at a time.
    """
    from safetensors.torch import load_file

    if cache_dir is None:
        return compute_features(encoder, split, level, batch_size)
    key = {
        "model": encoder.name,
        "weights": encoder.weights_hash(),
        "transform": repr(encoder.transform),
        "img_size": list(encoder.img_size),
        "level": encoder.level(level),
        "data": split.digest(),
        "grid": GRID,
    }
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(cache_dir) / f"{encoder.name}-level{key['level']}-{digest}.safetensors"
    if read_metadata(path).get("key") != text:
        features = compute_features(encoder, split, level, batch_size)
        save_weights({"features": features}, path, {"key": text})
    return load_file(path)["features"]
