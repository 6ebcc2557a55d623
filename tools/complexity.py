"""The same as ``backbones complexity``, from a checkout."""

import sys

from backbones.cli.complexity import main

if __name__ == "__main__":
    sys.exit(main())
