"""Configurations that are published beside weights, in the terms of this package."""

import difflib
from collections.abc import Mapping
from typing import Any

_PTDIT_ALIASES = {"num_attention_heads": "num_heads", "attention_head_dim": "head_dim"}
_PTDIT_NEEDS = ("num_heads", "head_dim", "num_layers", "in_channels", "caption_channels")
_PTDIT_OPTIONS = (
    *("out_channels", "patch_size", "cross_attention_dim", "sample_size", "frame"),
    *("compress_ratios", "proxy_compress_ratios"),
)
_PTDIT_CONSTANTS: dict[str, tuple[Any, ...]] = {  # what they must be
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "attention_type": ("default",),
    "dropout": (0.0,),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-6,),
    "norm_num_groups": (32,),
    "norm_type": ("ada_norm_single",),
    "num_embeds_ada_norm": (1000, None),
    "shift_window": (True,),
    "upcast_attention": (False,),
}


def read_ptdit_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """A released configuration of PT-DiT: constructor arguments of the authors' class.

    Args:
        config: The arguments, in the names of either version (``num_heads`` and ``head_dim``, or
            ``num_attention_heads`` and ``attention_head_dim``). Keys that begin with an underscore are ignored.

    Returns:
        Fields of ``PTDiTConfig``, and the channels of the latents.

    Raises:
        ValueError: If a name is unknown or missing, or a value is one that no released model has.
    """
    given = {_PTDIT_ALIASES.get(key, key): value for key, value in config.items() if not key.startswith("_")}
    known = {*_PTDIT_NEEDS, *_PTDIT_OPTIONS, *_PTDIT_CONSTANTS}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"a configuration of the reference has no {key!r}{hint}")
        if key in _PTDIT_CONSTANTS and value not in _PTDIT_CONSTANTS[key]:
            allowed = " or ".join(map(repr, _PTDIT_CONSTANTS[key]))
            raise ValueError(f"{key} is {value!r}; the released models have {allowed}, and nothing else is built")
    if missing := set(_PTDIT_NEEDS) - given.keys():
        raise ValueError(f"the configuration lacks {', '.join(sorted(missing))}")
    dim = given["num_heads"] * given["head_dim"]
    if given.get("cross_attention_dim", dim) != dim:
        raise ValueError(f"cross_attention_dim is {given['cross_attention_dim']}; it must be the width, {dim}")
    if (size := given.get("sample_size", 32)) >= 128:
        raise ValueError(f"sample_size is {size}; from 128 on the resolution is embedded, in no released model")
    fields = {
        "embed_dim": dim,
        "depth": given["num_layers"],
        "num_heads": given["num_heads"],
        "patch_size": given.get("patch_size", 2),
        "out_chans": given.get("out_channels"),
        "text_dim": given["caption_channels"],
        "shared_modulation": True,
        "window_size": tuple(given.get("compress_ratios", (1, 8, 8))),
        "proxy_size": tuple(given.get("proxy_compress_ratios", (1, 4, 4))),
        "table_frames": given.get("frame", 1),
        "table_size": size,
    }
    return fields, given["in_channels"]
