"""Model names, checked with a helpful answer."""

import difflib

import timm

__all__ = ["check_model_name"]


def check_model_name(name: str) -> None:
    """Do nothing if timm knows ``name`` (a tag after a dot included).

    Raises:
        ValueError: it does not; the message suggests the nearest names.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        raise ValueError(f"unknown model {architecture!r}; near names: {', '.join(near) or 'none'}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(f"{architecture} has no pretrained tag {tag!r}; it has: {', '.join(tags) or 'none'}")
