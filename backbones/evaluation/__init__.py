"""What a trained model has learned and what it looks at: frozen features compared, attention and gradients drawn.

Nothing here changes a model or its ordinary path: what is recorded is recorded by hooks and a function mode that exist
for the time of one call. ``backbones probe`` and ``backbones look`` are made of these functions.
"""
