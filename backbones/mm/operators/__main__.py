"""``python -m backbones.mm.operators``."""

from backbones.mm.operators import main

main()
