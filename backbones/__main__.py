"""``python -m backbones``: the console script, which also finds modules in the folder where it is run."""

import sys

from backbones.cli import main

if __name__ == "__main__":
    sys.exit(main())
