"""The same as ``backbones benchmark``, from a checkout."""

import sys

from backbones.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
