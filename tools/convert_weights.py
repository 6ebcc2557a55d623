"""The same as ``backbones convert``, from a checkout."""

import sys

from backbones.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
